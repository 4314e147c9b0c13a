"""Answers compared pairwise by a judge model."""
