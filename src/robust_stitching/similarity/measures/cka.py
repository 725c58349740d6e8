"""Linear CKA (Kornblith et al., 2019, equation 5) on whole feature maps, in bounded memory.

For representations X (n, p) and Y (n, q) with Gram matrices K = XXᵀ, L = YYᵀ and H = I − 11ᵀ/n,

    CKA(X, Y) = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)),   HSIC(K, L) = tr(KHLH).

Debiased CKA puts the unbiased HSIC (Song et al., 2012, equation 5) in its place. Minibatch CKA
(Nguyen, Raghu and Kornblith, 2021) averages the unbiased HSIC over batches, each of the three terms
for itself, and divides once. See `gram` for how the sums are taken.
"""

from torch import Tensor

from robust_stitching.similarity.arrays import Array, between
from robust_stitching.similarity.forms import Gram, MinibatchGram, Settings
from robust_stitching.similarity.gram import LEAST_IMAGES, GramSums, MinibatchSums, normalised
from robust_stitching.similarity.measure import ROTATIONS, SCALE, SHIFT, Measure, at_least, value_by


def _exact(sums: GramSums) -> Tensor:
    return normalised(sums.biased())


def _debiased(sums: GramSums) -> Tensor:
    return normalised(sums.unbiased())


def _minibatch(sums: MinibatchSums) -> Tensor:
    return normalised(sums.products)


def _few_in_a_batch(n: int, settings: Settings) -> str | None:
    size = settings.batch_size
    small = f"needs batches of at least {LEAST_IMAGES} images, not {size}"
    return at_least(LEAST_IMAGES)(n, settings) or (small if size < LEAST_IMAGES else None)


def _in_batches(n: int, settings: Settings) -> int:
    last = n % settings.batch_size
    return n - last if last < LEAST_IMAGES else n


_IGNORES = ROTATIONS | {SCALE, SHIFT}
MEASURES = (
    Measure(
        name="minibatch-cka",
        title="minibatch CKA",
        estimator="minibatch linear CKA (unbiased HSIC averaged over random batches of "
        "{batch_size}, divided once)",
        low=0,
        least=-1,
        high=1,
        same=1,
        cost="one pass; needs all layers of a batch in memory",
        form=MinibatchGram,
        value=value_by(_minibatch),
        pairs=_minibatch,
        limits=_few_in_a_batch,
        counted=_in_batches,
        default=True,
        ignores=_IGNORES,
    ),
    Measure(
        name="debiased-cka",
        title="debiased CKA",
        estimator="debiased linear CKA (unbiased HSIC over all images)",
        low=0,
        least=-1,
        high=1,
        same=1,
        cost="several passes, images² × features products; 8 × 8 layers of resnet_w1 with 10,000 "
        "images take minibatch-cka about a minute of one core, this one eight",
        form=Gram,
        value=value_by(_debiased),
        pairs=_debiased,
        limits=at_least(LEAST_IMAGES),
        ignores=_IGNORES,
    ),
    Measure(
        name="cka",
        title="linear CKA",
        estimator="exact linear CKA (biased HSIC over all images)",
        low=0,
        high=1,
        same=1,
        cost="as debiased-cka, and together with it no more than one of them",
        form=Gram,
        value=value_by(_exact),
        pairs=_exact,
        unbiased="debiased-cka",
        ignores=_IGNORES,
    ),
)
MINIBATCH, DEBIASED, EXACT = MEASURES


def cka(x: Array, y: Array) -> float:
    """Exact linear CKA of two representations of the same images, in [0, 1].

    ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred X and Y (Kornblith et al., 2019, equation 5), which takes the
    biased HSIC: where features far outnumber images it is near 1 whatever they are, see
    `debiased_cka`.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), two images or more. Maps enter whole, as C·H·W features.

    Returns
    -------
    NaN where a side does not vary over the images.

    Raises
    ------
    ValueError : for other shapes, other numbers of images, and values that are not finite.
    """
    return between(EXACT, x, y)


def debiased_cka(x: Array, y: Array) -> float:
    """Debiased linear CKA of two representations of the same images, in [−1, 1].

    CKA with the unbiased HSIC of Song et al. (2012, equation 5): 0 on average for independent
    representations, however few the images.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), four images or more. Maps enter whole, as C·H·W
        features.

    Returns
    -------
    NaN where a side does not vary over the images.

    Raises
    ------
    ValueError : for fewer images, other shapes, other numbers of images, and values that are not
        finite.
    """
    return between(DEBIASED, x, y)


def minibatch_cka(x: Array, y: Array, *, batch_size: int = Settings.batch_size) -> float:
    """Minibatch linear CKA of two representations of the same images, in [−1, 1].

    The unbiased HSIC is averaged over batches, each of the three terms for itself, and divided once
    (Nguyen, Raghu and Kornblith, 2021, equation 3). A last batch of what is left counts by its
    number of images, one of fewer than four is left out.

    Parameters
    ----------
    x, y : of shape (n, d) or (n, C, H, W), four images or more, in batches as they stand: shuffle
        both alike where their order means something. Maps enter whole, as C·H·W features.
    batch_size : four or more.

    Returns
    -------
    NaN where a side does not vary within batches.

    Raises
    ------
    ValueError : for fewer images, smaller batches, other shapes, other numbers of images, and
        values that are not finite.
    """
    return between(MINIBATCH, x, y, batch_size=batch_size)
