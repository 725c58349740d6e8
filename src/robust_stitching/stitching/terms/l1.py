"""The mean absolute value of what the map multiplies by, which makes it sparse: of its matrix, of
the scales of its channels, of both of its layers together."""

from robust_stitching.stitching.terms.term import Term

TERM = Term("l1", lambda seen: seen.transform.multipliers.abs().mean())
