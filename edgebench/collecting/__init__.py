"""Models × tasks × levels × repeats, one record per run."""
