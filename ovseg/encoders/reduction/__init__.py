"""Fewer tokens in the blocks of a tower, without training: the ways of ``encoder.tokens``."""
