"""The machine: its facts, its temperature, what it computes on, and whether it is fit to measure."""
