"""Every file that passes between the commands: its fields, and its one reader and writer."""
