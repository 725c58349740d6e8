"""A stitch, from its JSON report and its matrix file: text, tables, figures, pages."""
