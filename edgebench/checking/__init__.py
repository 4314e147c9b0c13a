"""Whether finished runs can be trusted."""
