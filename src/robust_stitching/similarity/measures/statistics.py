"""Statistics of one representation each, compared by their absolute difference.

They tell how a representation lies in its space, not which image lies where: other images on one
side change them no more than chance does.
"""

from collections.abc import Callable

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.distances import EuclideanDistances, SphereDistances
from robust_stitching.similarity.forms import POOLED, Channels, Form, of_length_1
from robust_stitching.similarity.measure import PAIRING, ROTATIONS, SCALE, SHIFT, Measure


def _magnitude(side: Channels) -> float:
    return float(side.rows.double().mean(dim=0).norm())


def _concentricity(side: Channels) -> float:
    rows = side.rows.double()
    return float((of_length_1(rows, dim=1) @ of_length_1(rows.mean(dim=0), dim=0)).mean())


def _channels(statistic: Callable[[Channels], float]) -> Callable[[Channels, Channels], float]:
    def value(x: Channels, y: Channels) -> float:
        varies = x.norm > 0 and y.norm > 0
        return abs(statistic(x) - statistic(y)) if varies else float("nan")

    return value


def _uniformity(x: EuclideanDistances, y: EuclideanDistances) -> float:
    varies = x.channels.norm > 0 and y.channels.norm > 0
    return abs(x.uniformity - y.uniformity) if varies else float("nan")


_PAIRS = "one pass, rows² × channels products; keeps rows²/2 numbers of each layer"


def _measure(
    name: str,
    title: str,
    estimator: str,
    form: type[Form],
    value: Callable,
    ignores: frozenset[str],
    high: float = float("inf"),
) -> Measure:
    return Measure(
        name=name,
        title=f"difference of {title}",
        estimator=f"absolute difference of {estimator}; 0 is alike)",
        low=0,
        high=high,
        same=0,
        cost="one pass" if form is Channels else _PAIRS,
        form=form,
        value=value,
        ignores=ignores | ROTATIONS | {PAIRING},
    )


MEASURES = (
    _measure(
        "magnitude",
        "magnitudes",
        "magnitudes (length of the mean row",
        Channels,
        _channels(_magnitude),
        frozenset(),
    ),
    _measure(
        "concentricity",
        "concentricities",
        "concentricities (mean cosine of rows with their mean",
        Channels,
        _channels(_concentricity),
        frozenset({SCALE}),
        high=2,
    ),
    _measure(
        "uniformity",
        "uniformities",
        "uniformities (log mean e^(−2d²) over all distances d, rows as they are",
        EuclideanDistances,
        _uniformity,
        frozenset({SHIFT}),
    ),
    _measure(
        "sphere-uniformity",
        "uniformities on the sphere",
        "uniformities (log mean e^(−2d²) over all distances d, rows of length 1",
        SphereDistances,
        _uniformity,
        frozenset({SCALE}),
        high=8,
    ),
)
MAGNITUDE, CONCENTRICITY, UNIFORMITY, SPHERE_UNIFORMITY = MEASURES


def magnitude(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """| ‖mean x_i‖ − ‖mean y_i‖ |, the difference of the lengths of the mean rows, from 0 on
    (Wang et al., 2020).

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), two images or more.
    positions : of maps, "pooled" takes the mean over positions as the row of an image, "all" has a
        row for each position, see `rows.Rows`.

    Returns
    -------
    NaN where a side does not vary.

    Raises
    ------
    ValueError : for other shapes, other numbers of images, and values that are not finite.
    """
    return between(MAGNITUDE, x, y, positions=positions)


def concentricity(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The difference of the mean cosines of rows with their mean row, in [0, 2] (Wang et al.,
    2020). A row of zeros has the cosine 0.

    Parameters, result and errors are those of `magnitude`.
    """
    return between(CONCENTRICITY, x, y, positions=positions)


def uniformity(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The difference of u = log(1/n² Σ_ij e^(−2 ‖x_i − x_j‖²)), from 0 to log n, the pairs i = j
    counted, too (Wang and Isola, 2020, section 4.1).

    Of rows as they are: where activations are large, u is −log n, and all are alike; see
    `sphere_uniformity`. Distances of n rows take n² · d products and n²/2 numbers.

    Parameters, result and errors are those of `magnitude`.
    """
    return between(UNIFORMITY, x, y, positions=positions)


def sphere_uniformity(x: Array, y: Array, *, positions: str = POOLED) -> float:
    """The same of rows brought to length 1, as Wang and Isola (2020) have them, in [0, 8]; a row of
    zeros stays there.

    Parameters, result and errors are those of `magnitude`.
    """
    return between(SPHERE_UNIFORMITY, x, y, positions=positions)
