"""Reports on grids of stitches, drawn from their JSON records."""
