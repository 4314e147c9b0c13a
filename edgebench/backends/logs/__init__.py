"""What the engines' own logs say."""
