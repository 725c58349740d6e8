"""How large the images are that networks see: the sides of squares, in pixels."""

IMAGE_SIZE = 32

MOST_IN_MEMORY = 2**30
"""Bytes of uint8 images up to which a dataset is kept as the images that networks see."""
