"""Tasks at several prompt lengths, and where they come from."""
