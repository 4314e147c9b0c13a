"""Care of child processes and of the terminal."""
