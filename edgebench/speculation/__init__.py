"""Speculative decoding: grids, cells, their energy, their summary."""
