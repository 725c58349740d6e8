"""robust-stitching: have two neural networks learned the same thing?

Train networks, stitch the front of one to the end of another, compare their representations.
The commands in ``src/bin`` are thin; everything they do can be called from here.
"""

__version__ = "0.1.0"
