"""Running a segmenter over a benchmark."""
