"""Stitching two networks: `run.stitch` runs one experiment from a frozen configuration."""
