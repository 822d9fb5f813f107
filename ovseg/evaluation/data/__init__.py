"""Data sets as they were published, under protocols."""
