"""Heads: pixels and phrases brought into one space."""
