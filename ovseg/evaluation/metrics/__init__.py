"""Scores, each from counts that add up over images."""
