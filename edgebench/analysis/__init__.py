"""What the runs and the judgments of a campaign say about prompt lengths."""
