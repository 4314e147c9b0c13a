"""Experiments of many cycles: file, conductor, summary."""
