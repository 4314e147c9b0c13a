"""Power lines, their sampler, and energy over a window of time."""
