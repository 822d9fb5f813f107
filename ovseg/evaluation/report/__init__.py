"""What is told of a run: reports, comparisons, pictures."""
