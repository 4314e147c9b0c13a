"""The rooms behind the commands: each folder is one subject of measuring what a longer prompt buys."""
