"""Heads: features and phrases brought into one space."""
