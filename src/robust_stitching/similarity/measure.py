"""What a measure is: a declaration with its function, all in one place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from robust_stitching.similarity.forms import CHANNELS, MAPS, OUTPUTS, Form, Settings

ORTHOGONAL, PERMUTATION, LINEAR = "orthogonal maps", "order of units", "invertible linear maps"
SCALE, UNIT_SCALES, SHIFT, PAIRING = "scale", "scale of each unit", "shift", "pairing of images"
"""What may be done to either side without changing a measure. To its units (features, or channels
for measures of those): map them by one orthogonal matrix, put them in another order, map them by
one invertible matrix. To its numbers: multiply all by one that is above 0, multiply each unit by
such a number of its own, add the same row to every row. And: put its images in an order other than
that of the other side."""

ROTATIONS = frozenset({ORTHOGONAL, PERMUTATION})
LINEAR_MAPS = ROTATIONS | {LINEAR, SCALE, UNIT_SCALES}


class Stacked(NamedTuple):
    """How a measure follows from products of symmetric matrices alone, so that permutations of all
    layers are looked at together, see `stacks.Stacks`.

    Attributes
    ----------
    matrix : ``matrix(form)``, (rows, rows), float32, in which nothing large cancels.
    values : ``values(sums)``, all values, (count, count), from `GramSums` over such matrices.
    """

    matrix: Callable[[Any], Tensor]
    values: Callable[[Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One way to say how alike two networks are.

    Attributes
    ----------
    name : as users write it.
    title : as it stands over a table and beside a colour bar.
    estimator : exactly what is computed; the settings that change the value stand in it, as
        {batch_size} and {k}.
    low, high : the range of its values; `least` where estimates of what is 0 go below `low`.
    same : its value for two copies of one thing.
    cost : what it takes, in words.
    form : what it needs prepared of each side, see `forms.Form`.
    value : ``value(a, b)`` of two such forms, NaN where it is not defined.
    pairs : for what follows from sums over Gram matrices, ``pairs(sums)``, all values at once,
        (count, count), from `form.Sums`: then no Gram matrix has to be kept.
    stacked : for those of channels that can be asked for all permuted layers at once.
    limits : ``limits(n, settings)`` says why `n` images are too few, as in "needs at least 4
        images, not 3", or None.
    counted : ``counted(n, settings)``, how many of `n` images it looks at.
    more_rows_than : of which models (1, 2) the layers need more rows (images, or positions of
        images) than they have channels.
    unbiased : name of the measure that has to stand beside this one where an activation has more
        numbers than there are images, for this one is then biased.
    attributes : its estimator where labels are attributes, of which an image has several, if that
        is another.
    share : whether its value is a share of the images, which has an interval.
    default : whether it is shown where nobody asked for measures.
    symmetric : whether value(a, b) is value(b, a).
    ignores : those of `ORTHOGONAL`, `PERMUTATION`, `LINEAR`, `SCALE`, `UNIT_SCALES`, `SHIFT` and
        `PAIRING` that change nothing; what is not among them does. The order of the images, the
        same on both sides, changes no measure but those over batches.
    """

    name: str
    title: str
    estimator: str
    low: float
    high: float
    same: float
    least: float | None = None
    cost: str
    form: type[Form]
    value: Callable[[Any, Any], float]
    pairs: Callable[[Any], Tensor] | None = None
    stacked: Stacked | None = None
    limits: Callable[[int, Settings], str | None] = lambda n, settings: None
    counted: Callable[[int, Settings], int] = lambda n, settings: n
    more_rows_than: tuple[int, ...] = ()
    unbiased: str | None = None
    attributes: str | None = None
    share: bool = False
    default: bool = False
    symmetric: bool = True
    ignores: frozenset[str] = frozenset()

    @property
    def of(self) -> str:
        """What it compares: `MAPS`, `CHANNELS` or `OUTPUTS`."""
        return self.form.of

    @property
    def of_outputs(self) -> bool:
        """Whether it compares the answers of the networks rather than pairs of layers."""
        return self.of == OUTPUTS

    @property
    def bounds(self) -> tuple[float, float]:
        """What no value is beyond."""
        return self.low if self.least is None else self.least, self.high

    @property
    def larger_is_more_similar(self) -> bool:
        """Whether a value that is larger says that the sides are more alike."""
        return self.same > self.low

    def uses(self, setting: str) -> bool:
        """Whether the setting of that name, one of `Settings`, changes its value."""
        return f"{{{setting}}}" in self.estimator

    def estimator_for(self, rows: str, attributes: bool = False, **settings: Any) -> str:
        """Exactly what is computed, with `rows` for what the channels are taken over."""
        estimator = self.attributes if attributes and self.attributes else self.estimator
        over = {MAPS: ", whole feature maps", CHANNELS: f", {rows}", OUTPUTS: ""}[self.of]
        return estimator.format(**settings) + over

    def too_few(self, n: int, settings: Settings) -> str | None:
        """Why `n` images are too few, with its name, if they are."""
        lacking = self.limits(n, settings)
        return lacking and f"{self.name} {lacking}"


def value_by(pairs: Callable[[Any], Tensor]) -> Callable[[Form, Form], float]:
    """The `value` of a measure that has `pairs`."""
    return lambda x, y: float(pairs(x.sums(y))[0, 1])


def at_least(least: int) -> Callable[[int, Settings], str | None]:
    """The `limits` of a measure that needs so many images."""

    def limits(n: int, settings: Settings) -> str | None:
        return f"needs at least {least} images, not {n}" if n < least else None

    return limits
