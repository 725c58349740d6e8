"""How large the images are that networks see: the sides of squares, in pixels."""

IMAGE_SIZE = 32
IMAGENET_SIZE = 224
