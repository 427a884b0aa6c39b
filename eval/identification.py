"""Identification among many distractors, the protocol of MegaFace and MF2; functions of arrays.

Kemelmacher-Shlizerman et al., The MegaFace Benchmark (CVPR 2016), section 3; Nech and
Kemelmacher-Shlizerman, Level Playing Field for Million Scale Face Recognition (CVPR 2017).
docs/evaluation.md states it, and how ours differs.
"""
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from unequal.errors import InputError
from unequal.eval.features import Features
from unequal.eval.verification import far_name
from unequal.system import progress

FARS = (1e-4, 1e-5, 1e-6)  # for a higher rate more scores would have to be kept
RANKS = (1, 5, 10, 100)
_SCORES = 1 << 26  # similarities held at once, about: 256 MB, and a quarter more for the mask
_FIRST = 1 << 20
_BLOCK = 8192  # distractors a matrix product; more brings no speed


class Identification(NamedTuple):
    """The result of :func:`identify`."""

    ranks: np.ndarray  # int64 (pairs,): rank of the mate, max_rank + 1 where it is beyond
    scores: np.ndarray  # float32 (pairs,): similarity of probe and mate
    impostors: np.ndarray  # float32: the highest impostor similarities, falling
    impostor_count: int  # of which these are the highest
    max_rank: int


class _Best:
    """The highest similarities seen, of each probe and of all together."""

    def __init__(self, probes: int, each: int, together: int) -> None:
        # Unsorted; until the end only the smallest kept score is needed.
        self.each = np.full((probes, each), -np.inf, np.float32)
        self._lowest = np.full(probes, -np.inf, np.float32)
        self._together = together
        self._pool: List[np.ndarray] = [np.empty(0, np.float32)]
        self._pooled = 0
        self._limit = np.float32(-np.inf)
        self._mask = np.empty((0, 0), bool)

    def add(self, scores: np.ndarray) -> None:
        """Take similarities (probes, n) into account; -inf counts for nothing."""
        start = 0
        while start < scores.shape[1]:
            # Before there is a limit all scores pass, at 40 bytes each, so take few at once.
            end = scores.shape[1] if self._limit > -np.inf else start + max(
                1, _FIRST // len(scores))
            self._add(scores[:, start:end])
            start = end

    def _add(self, scores: np.ndarray) -> None:
        if self._mask.shape != scores.shape:
            self._mask = np.empty(scores.shape, bool)
        # One pass over all scores; only the few above the limit cost more.
        np.greater(scores, np.minimum(self._lowest, self._limit)[:, None], out=self._mask)
        flat = np.flatnonzero(self._mask)
        rows = flat // scores.shape[1]
        values = scores[rows, flat - rows * scores.shape[1]]
        self._add_each(values, rows)
        self._add_together(values[values > self._limit])

    def _add_each(self, values: np.ndarray, rows: np.ndarray) -> None:
        better = values > self._lowest[rows]
        values, rows = values[better], rows[better]
        if not len(rows):
            return
        counts = np.bincount(rows, minlength=len(self.each))
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        changed = np.flatnonzero(counts)
        new = np.full((len(changed), counts.max()), -np.inf, np.float32)
        new[np.searchsorted(changed, rows), place] = values
        kept = self.each.shape[1]
        merged = np.concatenate([self.each[changed], new], axis=1)
        merged.partition(merged.shape[1] - kept, axis=1)
        self.each[changed] = merged[:, -kept:]
        self._lowest[changed] = merged[:, -kept]

    def _add_together(self, values: np.ndarray) -> None:
        self._pool.append(values)
        self._pooled += len(values)
        if self._pooled >= 2 * self._together:
            self._shrink()

    def _shrink(self) -> None:
        pool = np.concatenate(self._pool)
        if len(pool) > self._together:
            pool.partition(len(pool) - self._together)
            pool = pool[-self._together:].copy()
            self._limit = pool.min()
        self._pool, self._pooled = [pool], len(pool)

    def together(self) -> np.ndarray:
        """The highest of all, falling."""
        self._shrink()
        return np.sort(self._pool[0])[::-1]


def _groups(identities: np.ndarray) -> Dict[Any, np.ndarray]:
    """Rows of each identity (a value of the array)."""
    order = np.argsort(identities, kind="stable")
    ordered = identities[order]
    starts = np.append(np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])), len(order))
    return {ordered[first]: order[first:last]
            for first, last in zip(starts[:-1], starts[1:])} if len(order) else {}


def _mates(probes: np.ndarray, probe_identities: np.ndarray, gallery: Optional[np.ndarray],
           gallery_identities: Optional[np.ndarray]) -> Iterator[Tuple[int, np.ndarray]]:
    """Yield ``(row of a probe, similarities of its mates)``."""
    themselves = gallery is None or gallery_identities is None
    searched = probes if gallery is None else gallery
    groups = _groups(probe_identities if gallery_identities is None else gallery_identities)
    for identity, rows in _groups(probe_identities).items():
        mates = groups.get(identity, rows[:0])
        if not len(mates) or (themselves and len(mates) == 1):
            continue
        similarity = probes[rows] @ searched[mates].T
        for number, row in enumerate(rows):
            own = similarity[number]
            yield row, np.delete(own, number) if themselves else own


def block_size(probes: int) -> int:
    """Distractors a matrix product takes, so that memory stays bounded whatever the probes."""
    return int(np.clip(_SCORES // max(probes, 1), 64, _BLOCK))


def identify(probes: np.ndarray, probe_identities: np.ndarray, distractors: Features,
             gallery: Optional[np.ndarray] = None, gallery_identities: Optional[np.ndarray] = None,
             *, max_rank: int = 100, fars: Sequence[float] = FARS) -> "Identification":
    """Find each probe's mates among distractors.

    Without a gallery, MegaFace's way: each picture of a person in turn is the one mate hidden among
    the distractors, and every other picture of the person is a probe; other people of the probe
    set are not used. With a gallery, each of its pictures of the probe's identity is such a mate,
    hidden among the distractors and the gallery's pictures of other people.

    Parameters
    ----------
    probes : numpy.ndarray
        float32 (P, D), rows of length 1.
    probe_identities : numpy.ndarray
        (P,), of any type that can be sorted.
    distractors : unequal.eval.features.Features
        N of them, read block by block.
    gallery : numpy.ndarray, optional
        float32 (G, D), rows of length 1.
    gallery_identities : numpy.ndarray, optional
        (G,).
    max_rank : int
        Ranks beyond this one count as ``max_rank + 1``.
    fars : sequence of float
        False accept rates of interest; the highest decides how many impostor scores are kept.

    Returns
    -------
    Identification
        Of every pair of a probe and a mate, probes in the order of their identities. An impostor
        as similar as the mate stands before it.

    Raises
    ------
    InputError
        When sizes differ, or no probe has a mate.

    Notes
    -----
    Memory: ``5 * P * B`` bytes with ``B =`` :func:`block_size` (at most 320 MB up to a million
    probes), ``8 * max_rank * P``, ``8 * max(fars) * P * N``, 12 bytes a pair, and one block of
    distractors. ``benchmarks/identification.py`` measures time and memory.
    """
    if probes.shape[1] != distractors.size:
        raise InputError(f"{distractors.source}: features have length {distractors.size} but the "
                         f"probes' {probes.shape[1]}; all must come from one model.")
    pairs = list(_mates(probes, probe_identities, gallery, gallery_identities))
    if not pairs:
        needed = ("two pictures among the probes" if gallery is None else
                  "a picture among the probes and one in the gallery")
        raise InputError(f"No probe has a mate: a person needs {needed}.")
    # Only probes that have a mate take part.
    rows = np.array([row for row, _ in pairs])
    searching, identities = probes[rows], probe_identities[rows]
    mates = np.concatenate([some for _, some in pairs])
    impostor_count = len(rows) * len(distractors)
    if gallery is None or gallery_identities is None:
        gallery, gallery_identities = probes[:0], probe_identities[:0]
    else:
        impostor_count += len(rows) * len(gallery) - len(mates)
    best = _Best(len(rows), max_rank, _allowed(max(fars), impostor_count) + 1)
    count = block_size(len(rows))
    for start in range(0, len(gallery), count):
        scores = searching @ gallery[start:start + count].T
        scores[identities[:, None] == gallery_identities[start:start + count]] = -np.inf
        best.add(scores)
    buffer = np.empty((len(rows), count), np.float32)
    with progress.Bar(len(distractors), "identification", "distractors") as bar:
        for block in distractors.blocks(count):
            # A new array for each product would cost a page fault every 4 KB.
            out = buffer if len(block) == count else None
            best.add(np.matmul(searching, block.T, out=out))
            bar.update(len(block))
    ahead = np.sort(best.each, axis=1)
    ranks = [1 + max_rank - np.searchsorted(highest, scores, side="left")
             for highest, (_, scores) in zip(ahead, pairs)]
    return Identification(np.concatenate(ranks), mates, best.together(), impostor_count, max_rank)


def _allowed(far: float, impostors: int) -> int:
    """How many of ``impostors`` may be accepted at ``far``; rounding must not cost one."""
    return int(far * impostors * (1 + 1e-12))


def cmc(result: "Identification") -> np.ndarray:
    """Cumulative match characteristic: share of pairs with rank at most 1, 2, ... ``max_rank``."""
    counts = np.bincount(result.ranks, minlength=result.max_rank + 2)[1:-1]
    curve: np.ndarray = np.cumsum(counts) / len(result.ranks)
    return curve


def tar_at_far(result: "Identification", far: float) -> float:
    """Share of mates more similar than all but ``far`` of the impostors.

    NaN when ``far`` is below one impostor in all, or above the rates :func:`identify` was told.
    """
    allowed = _allowed(far, result.impostor_count)
    if not 1 <= allowed < len(result.impostors):
        return float("nan")
    return float(np.mean(result.scores > result.impostors[allowed]))


def measure(result: "Identification", ranks: Sequence[int] = RANKS,
            fars: Sequence[float] = FARS) -> Iterator[Tuple[str, float]]:
    """Every number of the protocol, one at a time.

    Yields
    ------
    name : str
    value : int or float
        ``pairs`` (of probe and mate), ``impostors`` (pairs of a probe and someone else),
        ``rank_1`` ... (shares, [0, 1]; ranks beyond ``max_rank`` are left out), ``min_far``,
        ``tar_at_1e-06`` ... (NaN where the rate is below ``min_far``).
    """
    yield "pairs", len(result.ranks)
    yield "impostors", result.impostor_count
    curve = cmc(result)
    for rank in ranks:
        if rank <= result.max_rank:
            yield f"rank_{rank}", float(curve[rank - 1])
    yield "min_far", 1 / result.impostor_count if result.impostor_count else float("nan")
    for far in fars:
        yield far_name(far), tar_at_far(result, far)
