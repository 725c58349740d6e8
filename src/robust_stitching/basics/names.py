"""Names of files for what people have named: each has its own, short enough for a file system."""

import hashlib
import os

from robust_stitching.basics.files import slug

LONGEST = 170
"""Bytes of a name, without what stands behind its last dot: two keys of a sweep, and more."""

SIGNS = 8


class Names:
    """Names of files in one folder: those of other words are others, upper and lower case being the
    same, as they are on some machines."""

    def __init__(self):
        self._taken: dict[str, tuple[str, ...]] = {}

    def of(self, *words: str) -> str:
        """The name for some words. Where it is too long, or that of others, eight signs of a hash
        of the words tell it apart."""
        name = slug("-".join(filter(None, words)).replace(" → ", "-").replace(", ", "-"))
        long = len(os.fsencode(name)) > LONGEST
        if long or self._taken.get(name.casefold(), words) != words:
            told = hashlib.sha256("\0".join(words).encode()).hexdigest()[:SIGNS]
            start = os.fsencode(name)[: LONGEST - SIGNS - 1].decode(errors="ignore")
            name = f"{start}-{told}"
        self._taken[name.casefold()] = words
        return name
