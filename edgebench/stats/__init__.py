"""Intervals and tests: pure numbers, nothing of files or of the screen."""
