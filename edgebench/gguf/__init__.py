"""Model files: facts, identity, operations."""
