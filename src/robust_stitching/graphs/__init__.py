"""Networks as graphs: tracing, cutting, joining, folding, and how activations lie."""
