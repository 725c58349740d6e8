"""Measures by their definitions in float64 NumPy and SciPy, with loops where those read better."""

import numpy as np
from scipy.linalg import eigh, fractional_matrix_power, inv, orth, svd
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist, pdist
from scipy.stats import pearsonr, spearmanr


def centred(x):
    return x - x.mean(axis=0)


def of_norm_1(x):
    return centred(x) / np.linalg.norm(centred(x))


def padded(x, y):
    width = max(x.shape[1], y.shape[1])
    return (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))


# Distances between images


def correlation_distances(x):
    """Of all pairs i < j; a row that does not vary correlates 0."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(pdist(x, "correlation"), nan=1)


def gram(x):
    middle = np.eye(len(x)) - 1 / len(x)
    return middle @ x @ x.T @ middle


def rbf_cka(x, y):
    def kernel(z):
        distances = cdist(z, z)
        width = np.median(pdist(z))
        k = np.exp(-(distances**2) / (2 * width**2))
        middle = np.eye(len(z)) - 1 / len(z)
        return middle @ k @ middle

    k, m = kernel(x), kernel(y)
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def rsm_norm(x, y):
    k, m = gram(x), gram(y)
    return np.linalg.norm(k / np.linalg.norm(k) - m / np.linalg.norm(m))


def doubly_centred(d):
    return d - d.mean(axis=0) - d.mean(axis=1)[:, None] + d.mean()


def distance_correlation(x, y):
    a, b = (doubly_centred(cdist(side, side)) for side in (x, y))
    return np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))


def u_centred(d):
    n = len(d)
    rows = d.sum(axis=1) / (n - 2)
    found = d - rows - rows[:, None] + d.sum() / ((n - 1) * (n - 2))
    return found * (1 - np.eye(n))


def unbiased_distance_correlation(x, y):
    a, b = (u_centred(cdist(side, side)) for side in (x, y))
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


# Neighbours


def neighbours(x, k, metric):
    """Of each image its k nearest ones, the nearest first."""
    found = []
    for i, distances in enumerate(cdist(x, x, metric)):
        others = [j for j in np.argsort(distances) if j != i]
        found.append(others[:k])
    return found


def jaccard(x, y, k=10, metric="cosine"):
    pairs = zip(neighbours(x, k, metric), neighbours(y, k, metric), strict=True)
    return np.mean([len({*a} & {*b}) / len({*a} | {*b}) for a, b in pairs])


def mutual(x, y, k=10, metric="cosine"):
    pairs = zip(neighbours(x, k, metric), neighbours(y, k, metric), strict=True)
    return np.mean([len({*a} & {*b}) / k for a, b in pairs])


def rank_similarity(x, y, k=10, metric="cosine"):
    values = []
    for a, b in zip(neighbours(x, k, metric), neighbours(y, k, metric), strict=True):
        found = 0
        for j in {*a} & {*b}:
            r, s = a.index(j) + 1, b.index(j) + 1
            found += 2 / ((1 + abs(r - s)) * (r + s))
        most = sum(1 / m for m in range(1, len({*a} & {*b}) + 1))
        values.append(found / most if most else 0)
    return np.mean(values)


def cosine(u, v):
    length = np.linalg.norm(u) * np.linalg.norm(v)
    return u @ v / length if length > 0 else float(np.array_equal(u, v))


def second_order_cosine(x, y, k=10):
    values = []
    pairs = zip(neighbours(x, k, "cosine"), neighbours(y, k, "cosine"), strict=True)
    for i, (a, b) in enumerate(pairs):
        either = sorted({*a} | {*b})
        values.append(cosine(*(np.array([cosine(s[i], s[j]) for j in either]) for s in (x, y))))
    return np.mean(values)


# Subspaces


def pwcca(x, y):
    """By a whitening with the inverse root of the covariance, as in the paper."""
    x, y = centred(x), centred(y)
    roots = [np.real(fractional_matrix_power(side.T @ side, -0.5)) for side in (x, y)]
    left, correlations, _ = svd(roots[0] @ x.T @ y @ roots[1], full_matrices=False)
    variates = x @ roots[0] @ left
    weights = [sum(abs(h @ channel) for channel in x.T) for h in variates.T]
    return np.average(correlations, weights=weights)


def explained(x, y):
    design = np.column_stack([x, np.ones(len(x))])
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - (rest**2).sum() / (centred(y) ** 2).sum()


def eigenspace_overlap(x, y):
    u, v = orth(x), orth(y)
    return np.linalg.norm(u.T @ v) ** 2 / max(u.shape[1], v.shape[1])


def gulp(x, y, ridge):
    """From the difference of the two smoothers, over images: ‖(XX⁺)_λ − (YY⁺)_λ‖ of n × n."""
    smoothers = []
    for side in (x, y):
        rows = of_norm_1(side)
        smoothers.append(rows @ inv(rows.T @ rows + ridge * np.eye(rows.shape[1])) @ rows.T)
    return np.linalg.norm(smoothers[0] - smoothers[1])


# Shapes


def rotated(x, y):
    """x after the orthogonal fit to y, the narrower side filled up."""
    x, y = padded(x, y)
    u, _, vt = svd(x.T @ y)
    return x @ u @ vt, y


def root_procrustes(x, y):
    fitted, y = rotated(of_norm_1(x), of_norm_1(y))
    return np.linalg.norm(fitted - y)


def size_and_shape(x, y):
    fitted, y = rotated(centred(x), centred(y))
    return np.linalg.norm(fitted - y)


def angular_shape(x, y):
    fitted, y = rotated(of_norm_1(x), of_norm_1(y))
    return np.arccos(np.sum(fitted * y))


def permutation_procrustes(x, y):
    x, y = padded(of_norm_1(x), of_norm_1(y))
    rows, columns = linear_sum_assignment(cdist(x.T, y.T, "sqeuclidean"))
    return np.linalg.norm(x[:, rows] - y[:, columns])


def aligned_cosine(x, y):
    return np.mean([cosine(a, b) for a, b in zip(*rotated(x, y), strict=True)])


# Units


def correlations(x, y):
    found = np.zeros((x.shape[1], y.shape[1]))
    for i, j in np.ndindex(found.shape):
        if np.ptp(x[:, i]) > 0 and np.ptp(y[:, j]) > 0:
            found[i, j] = pearsonr(x[:, i], y[:, j]).statistic
    return found


def hard_match(x, y):
    found = correlations(x, y)
    return found[linear_sum_assignment(-found)].mean()


def soft_match(x, y):
    found = correlations(x, y)
    return (found.max(axis=0).mean() + found.max(axis=1).mean()) / 2


def soft_matching(x, y):
    """A linear program, dense, whatever the widths."""
    costs = cdist(centred(x).T, centred(y).T, "sqeuclidean")
    p, q = costs.shape
    from_x, to_y = (np.kron(np.eye(p), np.ones(q)), np.kron(np.ones(p), np.eye(q)))
    masses = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    largest = costs.max()
    found = linprog(costs.ravel() / largest, A_eq=np.vstack([from_x, to_y]), b_eq=masses)
    return np.sqrt(found.fun * largest)


# Single representations


def magnitude(x):
    return np.sqrt(sum(channel.mean() ** 2 for channel in x.T))


def concentricity(x):
    return np.mean([cosine(row, x.mean(axis=0)) for row in x])


def uniformity(x):
    return np.log(np.mean(np.exp(-2 * cdist(x, x, "sqeuclidean"))))


def sphere_uniformity(x):
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return uniformity(x / np.where(length > 0, length, 1))


def heat_trace(x, t):
    """Of the graph of 5 nearest neighbours; the generalised eigenvalues of (D − A, D) are those of
    the normalised Laplacian."""
    joined = np.zeros((len(x), len(x)))
    for i, near in enumerate(neighbours(x, 5, "euclidean")):
        joined[i, near] = joined[near, i] = 1
    degrees = np.diag(joined.sum(axis=1))
    return sum(np.exp(-t * value) for value in eigh(degrees - joined, degrees)[0])


def imd(x, y):
    t = np.geomspace(0.1, 10, 256)
    return np.max(np.exp(-2 * t - 2 / t) * abs(heat_trace(x, t) - heat_trace(y, t)))


def difference(statistic):
    return lambda x, y: abs(statistic(x) - statistic(y))


FORMULAS = {
    "rsa-correlation-pearson": lambda x, y: pearsonr(*map(correlation_distances, (x, y))).statistic,
    "rsa-correlation-spearman": lambda x, y: (
        spearmanr(*(np.round(correlation_distances(side), 11) for side in (x, y))).statistic
    ),
    "rsa-euclidean-pearson": lambda x, y: pearsonr(pdist(x), pdist(y)).statistic,
    "rsa-euclidean-spearman": lambda x, y: spearmanr(pdist(x), pdist(y)).statistic,
    "rbf-cka": rbf_cka,
    "rsm-norm": rsm_norm,
    "raw-rsm-norm": lambda x, y: np.linalg.norm(gram(x) - gram(y)),
    "distance-correlation": distance_correlation,
    "unbiased-distance-correlation": unbiased_distance_correlation,
    "euclidean-mutual-knn": lambda x, y: mutual(x, y, metric="euclidean"),
    "jaccard-knn": jaccard,
    "euclidean-jaccard-knn": lambda x, y: jaccard(x, y, metric="euclidean"),
    "rank-similarity": rank_similarity,
    "euclidean-rank-similarity": lambda x, y: rank_similarity(x, y, metric="euclidean"),
    "second-order-cosine": second_order_cosine,
    "pwcca": pwcca,
    "reverse-pwcca": lambda x, y: pwcca(y, x),
    "reverse-regression": lambda x, y: explained(y, x),
    "eigenspace-overlap": eigenspace_overlap,
    "gulp-0": lambda x, y: gulp(x, y, 0),
    "gulp-1e-4": lambda x, y: gulp(x, y, 1e-4),
    "gulp-1e-2": lambda x, y: gulp(x, y, 1e-2),
    "root-procrustes": root_procrustes,
    "size-and-shape": size_and_shape,
    "angular-shape": angular_shape,
    "permutation-procrustes": permutation_procrustes,
    "aligned-cosine": aligned_cosine,
    "hard-correlation-match": hard_match,
    "soft-correlation-match": soft_match,
    "soft-matching": soft_matching,
    "magnitude": difference(magnitude),
    "concentricity": difference(concentricity),
    "uniformity": difference(uniformity),
    "sphere-uniformity": difference(sphere_uniformity),
    "imd": imd,
}
