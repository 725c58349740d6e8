"""The mean absolute value of the matrix of the map, which makes it sparse."""

from robust_stitching.stitching.terms.term import Term

TERM = Term("l1", lambda seen: seen.transform.matrix.abs().mean())
