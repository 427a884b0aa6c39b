"""Which tail identities does the model confuse most? Functions of arrays."""
from typing import Dict, Iterator, Tuple

import numpy as np
from scipy import sparse


def identity_centers(embeddings: np.ndarray,
                     identities: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Mean of each identity's L2-normalised embeddings.

    Parameters
    ----------
    embeddings : numpy.ndarray
        (n, D), need not be normalised.
    identities : numpy.ndarray
        (n,), any numbers; rows of an identity need not be adjacent, and each may have a different
        number of rows (the reference takes three rows each, whatever the identity has).

    Returns
    -------
    unique : numpy.ndarray
        (k,), the identities in order of first appearance.
    centers : numpy.ndarray
        float64 (k, D); not normalised, as in the reference's pick_interclass.
    """
    embeddings = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings = embeddings / np.maximum(norms, 1e-12)
    unique, first, inverse, counts = np.unique(
        identities, return_index=True, return_inverse=True, return_counts=True)
    # A sparse matrix that sums each identity's rows: a tenth of the time of np.add.at.
    members = sparse.csr_matrix(
        (np.ones(len(inverse)), np.argsort(inverse, kind="stable"),
         np.concatenate([[0], np.cumsum(counts)])), (len(unique), len(inverse)))
    order = np.argsort(first)
    return unique[order], ((members @ embeddings) / counts[:, None])[order]


def closest_pairs(centers: np.ndarray) -> Iterator[Tuple[int, int]]:
    """Yield pairs ``(i, j)``, i < j, the closest centres first.

    One matrix product, and a sort that goes only as far as pairs are consumed. Memory: k * k * 8
    bytes twice.
    """
    squares = np.einsum("ij,ij->i", centers, centers)
    rows, columns = np.triu_indices(len(centers), 1)
    distances = (squares[:, None] + squares - 2 * (centers @ centers.T))[rows, columns]
    done, size = 0, min(len(distances), 4 * len(centers))
    while done < len(distances):
        # The `size` smallest, sorted; ties are broken by position, so the order is deterministic.
        nearest = (np.argpartition(distances, size - 1)[:size] if size < len(distances)
                   else np.arange(len(distances)))
        nearest = nearest[np.lexsort((nearest, distances[nearest]))]
        for pair in nearest[done:]:
            yield rows[pair], columns[pair]
        done, size = size, min(len(distances), 8 * size)


def confusable_identities(embeddings: np.ndarray, identities: np.ndarray,
                          count: int) -> np.ndarray:
    """The ``count`` identities that the model confuses most, the reference's greedy choice.

    All pairs of identities are ordered by the distance of their centres; identities are taken from
    the closest pair on until there are enough (data_longtail_gs.py, pick_interclass).

    Parameters
    ----------
    embeddings, identities
        As for :func:`identity_centers`: one bag.
    count : int
        How many identities to choose.

    Returns
    -------
    numpy.ndarray
        (count,) identities, the most confusable first; all of them when there are fewer.

    Notes
    -----
    The reference sets an identity's distance to itself to 1. Once all pairs closer than 1 are used
    up, it therefore adds single identities; here only pairs are chosen.
    """
    unique, centers = identity_centers(embeddings, identities)
    if count >= len(unique):
        return unique
    chosen: Dict[int, None] = {}  # insertion order
    for pair in closest_pairs(centers):
        for index in pair:
            chosen.setdefault(index, None)
        if len(chosen) >= count:
            break
    return unique[list(chosen)[:count]]
