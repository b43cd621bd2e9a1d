"""How widely a subset spreads over what the dataset is about: vectors, clusters, policies that use them, and measures.

Vectors come from the words of the dataset itself (TF-IDF and a truncated SVD): no model is needed. They are fitted, and
clusters found, on a sample; the rest is assigned shard by shard. Policies and measures take vectors of any origin. Linear
algebra may differ between machines in the last bits, and a row between two clusters may fall to the other: a fitted `Space` is
stored with a run, and whoever opens the run uses that.
"""

from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.errors import UsageError
from alpagasus_ray.selection.budgets import Budget, portions
from alpagasus_ray.selection.policies import Choice, Columns, best_first
from alpagasus_ray.selection.words import folded

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
"""(rows, dimensions), each of length 1, or 0 where a row has no word that is known."""
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

DIMENSIONS = 64
CLUSTERS = 200
SAMPLE = 20_000
"""Rows that vectors and clusters are fitted on."""
TERMS = 20_000
ROUNDS = 20
"""Of k-means; clusters need not be perfect to compare shares of them."""
MEASURED = 5_000
"""Rows whose nearest chosen row is looked for."""
BLOCK = 1024
_NO_BLANKS = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TERM = rf"[{_NO_BLANKS}]|[^\W_{_NO_BLANKS}]{{2,}}"


class Space(NamedTuple):
    """What was fitted on a sample."""

    terms: list[str]
    rarity: Floats
    """(terms,): inverse document frequency."""
    axes: Floats
    """(terms, dimensions)"""
    centres: Floats
    """(clusters, dimensions)"""
    names: list[str]
    """Of clusters: the terms that set each apart."""


def fit(texts: Sequence[str], clusters: int = CLUSTERS, seed: int = 0) -> Space:
    """Vectors and clusters of a sample of texts, at most one cluster for two. Raises `UsageError` where no text has a word."""
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    weighted, terms, rarity = _counted(texts)
    axes = np.eye(1)  # of a single term, which scikit-learn refuses
    if len(terms) > 1:
        # sums of several threads end in another order each time; scikit-learn divides by the variance, of which equal texts
        # have none
        with threadpool_limits(1), np.errstate(divide="ignore", invalid="ignore"):
            svd = TruncatedSVD(min(DIMENSIONS, len(terms)), random_state=seed).fit(weighted)
        axes = np.asarray(svd.components_.T, dtype=np.float64)
    rows = unit(weighted @ axes).astype(np.float32)
    centres = centres_of(rows, clusters, seed)
    return Space(terms, rarity, axes, centres, _names(assigned(centres, rows), len(centres), weighted, terms, rarity))


def fit_given(rows: Vectors, texts: Sequence[str], clusters: int = CLUSTERS, seed: int = 0) -> Space:
    """Clusters of a sample of vectors that somebody has made, named by the words of their texts. Other texts have no vectors in
    such a space."""
    centres = centres_of(rows, clusters, seed)
    nothing: list[str] = []
    blank = Space(nothing, np.empty(0), np.empty((0, rows.shape[1])), centres, [""] * len(centres))
    try:
        weighted, terms, rarity = _counted(texts)
    except UsageError:  # no text has a word: the clusters have no names
        return blank
    return blank._replace(names=_names(assigned(centres, rows), len(centres), weighted, terms, rarity))


def _counted(texts: Sequence[str]) -> tuple[Any, list[str], Floats]:
    """TF-IDF of texts, the terms, and how rare each is. `UsageError` where no text has a word."""
    from sklearn.feature_extraction.text import CountVectorizer

    rarest = 1 if len(texts) < 1000 else 2
    counter = CountVectorizer(preprocessor=folded, token_pattern=_TERM, min_df=rarest, max_features=TERMS)
    try:
        counts = counter.fit_transform(texts)
    except ValueError as error:
        raise UsageError(
            f"pick.arms: `spread` goes by the words of examples, and {len(texts):,} of them have none ({error})"
        ) from None
    present = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.log((1 + len(texts)) / (1 + present)) + 1
    return _weighted(counts, rarity), [str(term) for term in counter.get_feature_names_out()], rarity


def centres_of(rows: Vectors, clusters: int = CLUSTERS, seed: int = 0) -> Floats:
    """(clusters, dimensions): centres of the clusters of a sample of vectors (k-means), at most one for two rows, and no more
    than there are different ones."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    most = min(clusters, max(1, len(rows) // 2), len(np.unique(rows, axis=0)))
    with threadpool_limits(1):
        means = KMeans(most, n_init=1, max_iter=ROUNDS, random_state=seed).fit(rows)
    return np.asarray(means.cluster_centers_, dtype=np.float64)


def vectors(space: Space, texts: Sequence[str]) -> Vectors:
    """The vectors of texts."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(preprocessor=folded, token_pattern=_TERM, vocabulary=space.terms)
    return unit(_weighted(counter.transform(texts), space.rarity) @ space.axes).astype(np.float32)


def assigned(centres: Floats, rows: Vectors) -> Indices:
    """The nearest cluster of each row."""
    own = centres.astype(np.float32)
    shift = (own * own).sum(axis=1) / 2
    parts = [np.argmax(rows[start : start + BLOCK] @ own.T - shift, axis=1) for start in range(0, len(rows), BLOCK)]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)


def _weighted(counts: Any, rarity: Floats) -> Any:
    """TF-IDF of counts, each row of length 1."""
    from sklearn.preprocessing import normalize

    matrix = counts.astype(np.float64)
    matrix.data = 1 + np.log(matrix.data)
    return normalize(matrix.multiply(rarity).tocsr())


def unit(rows: Floats) -> Floats:
    """Rows divided by their lengths; a row of length 0 stays."""
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.where(length > 1e-9, length, 1))


def _members(cluster: Indices, clusters: int) -> Any:
    """(clusters, rows): what takes the mean of each cluster's rows."""
    from scipy import sparse

    sizes = np.bincount(cluster, minlength=clusters)
    return sparse.csr_matrix((1 / sizes[cluster], (cluster, np.arange(len(cluster)))), shape=(clusters, len(cluster)))


def _names(cluster: Indices, clusters: int, weighted: Any, terms: list[str], rarity: Floats) -> list[str]:
    """For each cluster the three terms that tell most of it: that weigh more in it than everywhere, and are rare."""
    means = _members(cluster, clusters) @ weighted
    telling = (np.asarray(means.todense()) - np.asarray(weighted.mean(axis=0))) * (rarity - 1)
    return [", ".join(terms[place] for place in np.argsort(-row, kind="stable")[:3] if row[place] > 0) for row in telling]


def top_of_clusters(columns: Columns, cluster: Indices, tokens: Indices, budget: Budget, seed: int) -> Choice:
    """The best rows of each cluster, as many of each as its share of all rows with a score.

    A budget of tokens takes as many rows as it holds so divided.
    """
    ranked = best_first(columns, seed)
    sizes = np.bincount(cluster[ranked], minlength=int(cluster.max()) + 1 if len(cluster) else 0)
    queues = [ranked[cluster[ranked] == number] for number in range(len(sizes))]

    def chosen(rows: int) -> Indices:
        parts = portions(rows, sizes.tolist())
        return np.concatenate([queue[:part] for queue, part in zip(queues, parts, strict=True)])

    rows = len(ranked) if budget.rows is None else min(budget.rows, len(ranked))
    if budget.tokens is not None:
        rows = _most(rows, lambda count: int(tokens[chosen(count)].sum()) <= budget.tokens)
    kept = np.zeros(len(columns.ids), dtype=bool)
    kept[chosen(rows)] = True
    return Choice(kept, "not among the best of its cluster")


def _most(limit: int, fits: Any) -> int:
    """The largest number up to the limit that fits."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def apart(columns: Columns, rows: Vectors, limit: float, tokens: Indices, budget: Budget) -> Choice:
    """The best rows that have a cosine below `limit` with each better one that is kept (DEITA, arXiv 2312.15685, section 2.4).

    It compares each candidate with all that are kept: the time grows with the square of the rows. May keep fewer than the
    budget, where no other row is apart.
    """
    ranked = best_first(columns, 0)
    kept: list[int] = []
    spent = 0
    for start in range(0, len(ranked), BLOCK):
        block = ranked[start : start + BLOCK]
        near = nearest(rows[block], rows[kept]) >= limit
        between = rows[block] @ rows[block].T >= limit
        for place, row in enumerate(block):
            if near[place]:
                continue
            spent += int(tokens[row])
            if _is_past(budget, len(kept) + 1, spent):
                return _apart(kept, columns, limit)
            kept.append(int(row))
            near |= between[place]
    return _apart(kept, columns, limit)


def _is_past(budget: Budget, rows: int, tokens: int) -> bool:
    return (budget.rows is not None and rows > budget.rows) or (budget.tokens is not None and tokens > budget.tokens)


def _apart(kept: list[int], columns: Columns, limit: float) -> Choice:
    flags = np.zeros(len(columns.ids), dtype=bool)
    flags[kept] = True
    return Choice(flags, f"a better row is as near as a cosine of {limit:g}, or the size was reached")


def nearest(rows: Vectors, others: Vectors) -> Vectors:
    """The highest cosine of each row with any of the others; -1 where there are none."""
    best = np.full(len(rows), -1, dtype=np.float32)
    for start in range(0, len(others), 4 * BLOCK):
        np.maximum(best, (rows @ others[start : start + 4 * BLOCK].T).max(axis=1), out=best)
    return best


def coverage(rows: Vectors, kept: Flags, seed: int = 0) -> float | None:
    """Mean cosine of a row with the nearest kept one, over a sample of all rows; None where nothing is kept."""
    if not kept.any():
        return None
    sample = np.random.default_rng(seed).permutation(len(rows))[:MEASURED]
    chosen = rows[kept]
    highest = [nearest(rows[sample[start : start + BLOCK]], chosen) for start in range(0, len(sample), BLOCK)]
    return float(np.concatenate(highest).astype(np.float64).mean())


def effective_clusters(cluster: Indices, kept: Flags) -> float:
    """How many clusters of equal size would be as varied: the exponential of the entropy of the shares."""
    counts = np.bincount(cluster[kept])
    shares = counts[counts > 0] / max(1, int(kept.sum()))
    return float(np.exp(-(shares * np.log(shares)).sum()))


def drift(cluster: Indices, kept: Flags) -> float:
    """Which part of the kept rows had to be of other clusters to have the dataset's shares (total variation distance)."""
    size = int(cluster.max()) + 1
    all_rows, chosen = np.bincount(cluster, minlength=size), np.bincount(cluster[kept], minlength=size)
    return float(np.abs(all_rows / len(cluster) - chosen / max(1, int(kept.sum()))).sum() / 2)


def on_a_map(centres: Floats) -> Floats:
    """(clusters, 2): where to draw each, from -1 to 1: the two directions in which centres differ most."""
    middle = centres - centres.mean(axis=0)
    _, _, axes = np.linalg.svd(middle, full_matrices=False)
    flat = middle @ axes[:2].T
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    # a direction and its opposite are equally good: the larger end points to the right, and up
    ends = np.where(flat.max(axis=0) >= -flat.min(axis=0), 1.0, -1.0)
    reach = np.abs(flat).max(axis=0)
    return np.asarray(flat * ends / np.where(reach > 0, reach, 1))


def cluster_report(space: Space, cluster: Indices, kept: Flags, covered: float | None) -> dict[str, Any]:
    """One arm in numbers, and its clusters, largest of the dataset first, with where to draw them."""
    places = on_a_map(space.centres)
    size = len(space.centres)
    every, chosen = np.bincount(cluster, minlength=size), np.bincount(cluster[kept], minlength=size)
    return {
        "coverage": None if covered is None else round(covered, 4),
        "effective_clusters": round(effective_clusters(cluster, kept), 1),
        "drift": round(drift(cluster, kept), 4),
        "clusters": [
            {
                "name": space.names[number],
                "rows": int(every[number]),
                "kept": int(chosen[number]),
                "x": round(float(places[number, 0]), 4),
                "y": round(float(places[number, 1]), 4),
            }
            for number in np.argsort(-every, kind="stable")
            if every[number]
        ],
    }


def save(space: Space, path: str | IO[bytes]) -> None:
    """Write a space to a file, by its path or opened: arrays only, nothing that runs code when it is read."""
    terms, names = np.array(space.terms), np.array(space.names)
    np.savez(path, terms=terms, rarity=space.rarity, axes=space.axes, centres=space.centres, names=names)


def load(path: str | IO[bytes]) -> Space:
    """Read what `save` has written."""
    with np.load(path, allow_pickle=False) as file:
        names = [[str(text) for text in file[key]] for key in ("terms", "names")]
        return Space(names[0], file["rarity"], file["axes"], file["centres"], names[1])
