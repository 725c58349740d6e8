"""Grids of stitches: every layer of one network with every layer of another, in one pass."""
