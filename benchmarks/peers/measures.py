"""Claim: measures of two arrays take at most twice the time of repsim and rsatoolbox, CKA and CCA
at most a fifth, and are right to 1e-8 where float32 is given.

    python benchmarks/peers/measures.py
    python benchmarks/peers/measures.py --images 2000 --channels 256 --measure debiased-cka

Two float32 arrays of a shared signal and noise, by each measure that one of the peers has, too.
Distances are to formulas in float64, written here. A peer that is far from its formula computes
something else under that name.

Ours alone, among others: Procrustes and shape distances, mutual nearest neighbours, CKA in
minibatches, GULP, matching of units. Of other packages, ultimate-anatome 0.1.1 needs a module
that nobody publishes (uutils.torch_uu), and deep-reps 0.0.6 cannot be imported without open_clip.
torch-cka 0.21 and ckatorch 1.0.3, which compare networks in minibatches, too, were not measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from _peers import OURS, options, peer, side_by_side, told
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr

from robust_stitching import similarity

ROUNDS = 3
REPSIM, RSATOOLBOX = "repsim", "rsatoolbox"
WRONG = 1e-3

Array = np.ndarray
Of = Callable[[Array, Array], float]


@dataclass(frozen=True)
class Measured:
    """One measure: ours, a peer's by the peer's name, and its formula."""

    ours: Of
    peer: str
    theirs: Of
    formula: Of


def main() -> None:
    parser = options(__doc__, ROUNDS)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--measure", choices=NAMES, help="one of them")
    asked = parser.parse_args()
    measures = by_name(peer("repsim", REPSIM), peer("rsatoolbox", RSATOOLBOX))
    x, y = arrays(asked.images, asked.channels)
    ratios, differences, others = [], [], []
    print(f"{asked.images:,} images, {x.shape[1]} and {y.shape[1]} channels, float32")
    for name in [asked.measure] if asked.measure else NAMES:
        measure = measures[name]
        tools = {OURS: measure.ours, measure.peer: measure.theirs}
        runs = {tool: lambda run=run: run(x, y) for tool, run in tools.items()}
        found = side_by_side(runs, asked, extra=["--measure", name])
        exact = measure.formula(x.astype(np.float64), y.astype(np.float64))
        print(f"\n{name}, in float64 {exact:.6f}")
        found.tell()
        off = {tool: abs(value - exact) for tool, value in found.answers.items()}
        for tool, distance in off.items():
            other = "" if distance < WRONG else f": {found.answers[tool]:.6f}, another measure"
            print(f"{tool:14} off float64 by {distance:.0e}{other}")
        differences.append(off[OURS])
        if off[measure.peer] < WRONG:
            ratios.append(found.ratios[measure.peer])
        else:
            others.append(name)
    same = "" if not others else f", and another measure under the name of {', '.join(others)}"
    print(f"\nthe same measure {len(ratios)} times{same}")
    if not ratios:
        raise SystemExit("none of the peers has the same measure; there is nothing to compare")
    told(
        ratio=max(ratios),
        least=min(ratios),
        difference=max(differences),
        others=len(others),
    )


def arrays(n: int, channels: int) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    shared = random.standard_normal((n, channels // 2))
    x, y = (
        shared @ random.standard_normal((channels // 2, width)) / 4
        + random.standard_normal((n, width))
        for width in (channels, channels * 3 // 2)
    )
    return x.astype(np.float32), y.astype(np.float32)


NAMES = (
    "cka",
    "debiased-cka",
    "squared-cca",
    "pwcca",
    "rsa-correlation-spearman",
    "rsa-correlation-pearson",
    "rsa-euclidean-spearman",
    "rsa-euclidean-pearson",
)


def by_name(repsim: ModuleType, rsatoolbox: ModuleType) -> dict[str, Measured]:
    def by_repsim(name: str, **how: str) -> Of:
        return lambda x, y: float(getattr(repsim, name)([x, y], **how)[0, 1])

    def rsa(distances: str, correlation: str) -> Of:
        def theirs(x: Array, y: Array) -> float:
            sides = (rsatoolbox.data.Dataset(side) for side in (x, y))
            a, b = (rsatoolbox.rdm.calc_rdm(side, method=distances) for side in sides)
            return float(rsatoolbox.rdm.compare(a, b, method=correlation)[0, 0])

        return theirs

    repsims = {
        "cka": (by_repsim("cka", kernel_type="linear", estimator="gretton"), cka),
        "debiased-cka": (by_repsim("cka", kernel_type="linear", estimator="song"), debiased_cka),
        "squared-cca": (by_repsim("cca", summary_type="yanai"), squared_cca),
        "pwcca": (by_repsim("pwcca"), pwcca),
    }
    rsas = {
        f"rsa-{distances}-{correlation}": (
            rsa(distances, {"pearson": "corr"}.get(correlation, correlation)),
            correlated(distances, {"pearson": pearsonr, "spearman": spearmanr}[correlation]),
        )
        for distances in ("correlation", "euclidean")
        for correlation in ("spearman", "pearson")
    }
    whose = dict.fromkeys(repsims, REPSIM) | dict.fromkeys(rsas, RSATOOLBOX)
    return {
        name: Measured(getattr(similarity, name.replace("-", "_")), whose[name], *both)
        for name, both in (repsims | rsas).items()
    }


# The formulas


def centred(x: Array) -> Array:
    return x - x.mean(axis=0)


def cka(x: Array, y: Array) -> float:
    """‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖)."""
    x, y = centred(x), centred(y)
    return np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def debiased_cka(x: Array, y: Array) -> float:
    """The unbiased HSIC of Song et al. (2012, equation 5), term by term."""
    grams = []
    for side in (x, y):
        gram = side @ side.T
        np.fill_diagonal(gram, 0)
        grams.append(gram)
    n = len(x)

    def hsic(k: Array, m: Array) -> float:
        ones = np.ones(n)
        return (
            (k * m.T).sum()
            + k.sum() * m.sum() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (ones @ k) @ (m @ ones)
        )

    k, m = grams
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def canonical(x: Array, y: Array) -> tuple[Array, Array]:
    """The variates of x, columns of norm 1, and the canonical correlations."""
    bases = [np.linalg.qr(centred(side))[0] for side in (x, y)]
    left, correlations, _ = np.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    return bases[0] @ left, correlations


def squared_cca(x: Array, y: Array) -> float:
    """Σ ρ² / min(p, q)."""
    return (canonical(x, y)[1] ** 2).mean()


def pwcca(x: Array, y: Array) -> float:
    """Σ α ρ / Σ α with α_i = Σ_j |h_i · x_j| (Morcos et al., 2018)."""
    variates, correlations = canonical(x, y)
    return np.average(correlations, weights=np.abs(variates.T @ centred(x)).sum(axis=1))


def correlated(distances: str, correlation: Callable) -> Of:
    """How the distances of all pairs of images correlate."""
    return lambda x, y: correlation(pdist(x, distances), pdist(y, distances)).statistic


if __name__ == "__main__":
    main()
