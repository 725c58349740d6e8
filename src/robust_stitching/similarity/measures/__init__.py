"""The measures by which two networks can be compared, found by name.

Each module of this package is a family: it has `MEASURES`, the declarations, and one function on
plain arrays for each of them. A module that is put here is found by itself.
"""

import pkgutil
from collections.abc import Sequence
from importlib import import_module

from robust_stitching.basics.errors import unknown
from robust_stitching.similarity.forms import CHANNELS, MAPS, OUTPUTS
from robust_stitching.similarity.measure import Measure

MEASURES: dict[str, Measure] = {}


def register(*measures: Measure) -> None:
    """Let measures be found by their names, in this order, behind those that are there.

    Raises
    ------
    ValueError : for a name that is taken.
    """
    for measure in measures:
        if measure.name in MEASURES or measure.name == "all":
            raise ValueError(f"there is a measure '{measure.name}' already; choose another name")
        MEASURES[measure.name] = measure


def chosen(names: Sequence[str] | None = None) -> tuple[Measure, ...]:
    """The measures of these names, each once, in the order of `MEASURES`; "all" means every one,
    None those that are shown by default.

    Raises
    ------
    UserError : for an unknown name, with the closest.
    """
    if names is None:
        return tuple(measure for measure in MEASURES.values() if measure.default)
    for name in names:
        if name != "all" and name not in MEASURES:
            raise unknown("measure", name, MEASURES)
    return tuple(m for m in MEASURES.values() if m.name in names or "all" in names)


_files = sorted(module.name for module in pkgutil.iter_modules(__path__))
_families = [import_module(f"{__name__}.{name}").MEASURES for name in _files]
for _kind in (MAPS, CHANNELS, OUTPUTS):
    register(*(measure for family in _families for measure in family if measure.of == _kind))
