"""Step 4's tail stream: which images of rare identities each batch contains.

One round, an epoch of the reference: shuffle the tail identities, take a few images of each, cut
this sequence into bags and embed them with the current model. The identities of a bag that the
model confuses most make one batch.
"""
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from unequal.cluster.workers import Workers
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError, InputError
from unequal.models.embedder import Embedder
from unequal.system import progress
from unequal.training.mining import confusable_identities


class Bags(NamedTuple):
    """The images of a round, bag after bag, from which the miner chooses."""

    keys: np.ndarray  # (n,) record keys; an identity's are adjacent
    identities: np.ndarray  # (n,) rows of RecordSet.identity_ranges
    bounds: np.ndarray  # (bags + 1,) bag b is [bounds[b], bounds[b + 1])


def _some_images(ranges: np.ndarray, identities: np.ndarray, most: int,
                 random: np.random.RandomState) -> Tuple[np.ndarray, np.ndarray]:
    """Up to ``most`` random images of each identity: ``(keys, identity of each)``."""
    begin, end = ranges[identities].T
    counts = end - begin
    owner = np.repeat(np.arange(len(identities)), counts)
    first = np.cumsum(counts) - counts
    rank = np.arange(len(owner)) - np.repeat(first, counts)  # within the identity
    shuffled = np.lexsort((random.random_sample(len(owner)), owner))
    chosen = shuffled[rank < most]
    return begin[owner[chosen]] + rank[chosen], identities[owner[chosen]]


def draw_bags(ranges: np.ndarray, images_per_identity: int, bag_size: int, count: int,
              random: np.random.RandomState) -> Bags:
    """Walk through shuffled identities and cut the walk into bags.

    Parameters
    ----------
    ranges : numpy.ndarray
        int64 (identities, 2): key ranges [a, b).
    images_per_identity : int
        At most so many images of each, at random.
    bag_size : int
        Most images of a bag; an identity's images are never divided between bags. Identities left
        over at the end of the sequence, too few for a bag, are shuffled in again, as in the
        reference.
    count : int
        How many bags.
    random : numpy.random.RandomState

    Returns
    -------
    Bags
        16 bytes an image drawn; the walk takes 24 bytes an identity meanwhile.
    """
    available = np.minimum(ranges[:, 1] - ranges[:, 0], images_per_identity)

    def shuffle() -> Tuple[np.ndarray, np.ndarray]:
        walk = random.permutation(len(ranges))
        return walk, np.concatenate([[0], np.cumsum(available[walk])])

    walk, images = shuffle()
    keys: List[np.ndarray] = []
    identities: List[np.ndarray] = []
    at, bounds = 0, [0]
    for _ in range(count):
        if at and images[-1] - images[at] < bag_size:
            walk, images = shuffle()
            at = 0
        until = int(np.searchsorted(images, images[at] + bag_size, side="right")) - 1
        some, owners = _some_images(ranges, walk[at:until], images_per_identity, random)
        keys.append(some)
        identities.append(owners)
        bounds.append(bounds[-1] + len(some))
        at = until
    return Bags(np.concatenate(keys), np.concatenate(identities), np.array(bounds))


def batch_keys(keys: np.ndarray, identities: np.ndarray, chosen: np.ndarray,
               images_per_identity: int) -> np.ndarray:
    """Keys of one batch: ``images_per_identity`` of each chosen identity, one after the other.

    An identity with fewer images repeats them (each time with another augmentation).
    """
    return np.concatenate([np.resize(keys[identities == identity], images_per_identity)
                           for identity in chosen])


class Miner:
    """Chooses the tail images of each round (epoch).

    Parameters
    ----------
    records : unequal.data.records.RecordSet
        The tail set; it must have identity records.
    identities : int
        Identities a batch.
    images_per_identity, bag_size : int
        As for :func:`draw_bags`.
    bags : int
        Batches an epoch; the reference has 100.
    seed : int

    Raises
    ------
    InputError
        When a bag cannot hold the identities of a batch, or the set has too few.
    """

    def __init__(self, records: RecordSet, identities: int, images_per_identity: int = 3,
                 bag_size: int = 3600, bags: int = 100, seed: int = 0) -> None:
        if images_per_identity < 1:
            raise ArgumentError("images_per_identity must be above 0.", "images_per_identity")
        if not len(records.identity_ranges):
            raise InputError(f"{records.path}: the tail set has no identity records; pack it again "
                             "with `unequal pack`.")
        if len(records.identity_ranges) < identities:
            raise ArgumentError(
                f"{records.path}: {len(records.identity_ranges)} identities, but a batch shows "
                f"{identities}; lower tail_size.", "tail_size")
        if bag_size < identities * images_per_identity:
            raise ArgumentError(
                f"bag_size {bag_size} must be at least the {identities * images_per_identity} "
                "images of a batch.", "bag_size")
        self.records, self._identities = records, identities
        self._images, self._bag_size = images_per_identity, bag_size
        self._bags, self._seed = bags, seed

    def draw(self, number: int) -> Bags:
        """The bags of round ``number``; they depend on the seed and the number only."""
        return draw_bags(self.records.identity_ranges, self._images, self._bag_size, self._bags,
                         np.random.RandomState([self._seed, number]))

    def mined(self, number: int, embedder: Embedder,
              workers: Optional[Workers] = None) -> np.ndarray:
        """Round ``number`` with the identities that ``embedder`` confuses most.

        With ``workers`` (:class:`unequal.cluster.workers.Workers`) each embeds its share of the
        bags, and all have the same result.

        Returns
        -------
        numpy.ndarray
            int64 (bags, identities * images_per_identity), record keys.
        """
        bags = self.draw(number)
        if workers is None:
            return self._choose(bags, embedder)
        first, last = workers.share(self._bags)
        begin, end = bags.bounds[first], bags.bounds[last]
        own = Bags(bags.keys[begin:end], bags.identities[begin:end],
                   bags.bounds[first:last + 1] - begin)
        return workers.join(self._choose(own, embedder), self._bags)

    def _choose(self, bags: Bags, embedder: Embedder) -> np.ndarray:
        count = len(bags.bounds) - 1
        if not count:
            return np.empty((0, self._identities * self._images), np.int64)
        batches: List[np.ndarray] = []
        kept: List[np.ndarray] = []
        bag = 0
        with progress.Bar(len(bags.keys), "mining", "images") as bar:
            for start, _, plain, _ in embedder.stream(self.records, bags.keys):
                kept.append(plain)
                bar.update(len(plain))
                done = start + len(plain)
                if done < bags.bounds[bag + 1]:
                    continue
                embeddings = np.concatenate(kept)
                offset = done - len(embeddings)
                while bag < count and bags.bounds[bag + 1] <= done:
                    begin, end = bags.bounds[bag:bag + 2]
                    chosen = confusable_identities(
                        embeddings[begin - offset:end - offset], bags.identities[begin:end],
                        self._identities)
                    batches.append(batch_keys(bags.keys[begin:end], bags.identities[begin:end],
                                              chosen, self._images))
                    bag += 1
                kept = [embeddings[bags.bounds[bag] - offset:]]
        return np.stack(batches)

    def random(self, number: int) -> np.ndarray:
        """As :meth:`mined`, but with each bag's first identities, whose order is random."""
        bags = self.draw(number)
        batches = []
        for begin, end in zip(bags.bounds[:-1], bags.bounds[1:]):
            owners = bags.identities[begin:end]
            chosen = owners[np.sort(np.unique(owners, return_index=True)[1])][:self._identities]
            batches.append(batch_keys(bags.keys[begin:end], owners, chosen, self._images))
        return np.stack(batches)
