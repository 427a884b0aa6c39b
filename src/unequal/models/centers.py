"""Sub-center ArcFace's second step: keep the centre that most images of a class are nearest to.

The other centres have collected mislabelled images (Deng et al., Sub-center ArcFace, ECCV 2020,
section 3.3: "drop non-dominant sub-centers").
"""
from typing import Dict, List, NamedTuple, Optional

import mxnet as mx
import numpy as np

from unequal.data.records import RecordSet
from unequal.errors import ArgumentError, InputError
from unequal.models import checkpoints
from unequal.models.embedder import Embedder
from unequal.system.progress import Bar


class Dropped(NamedTuple):
    """A model with one centre a class, and how many images each dropped centre had."""

    symbol: mx.sym.Symbol  # the embedding, fc1_output
    arg_params: Dict[str, mx.nd.NDArray]  # fc7_weight (C, D)
    aux_params: Dict[str, mx.nd.NDArray]
    counts: np.ndarray  # int64 (C, K): images of a class by their nearest centre


def nearest(embeddings: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Which of its class's centres each embedding has the largest cosine with.

    Parameters
    ----------
    embeddings : numpy.ndarray
        float32 (N, D), of any length.
    labels : numpy.ndarray
        int (N,).
    weight : numpy.ndarray
        float32 (C, K, D), of any length.

    Returns
    -------
    numpy.ndarray
        int64 (N,), in 0 ... K - 1; among equals the first. N * K * D floats at once.
    """
    own = weight[labels]
    lengths = np.sqrt((own * own).sum(axis=2)) + 1e-12
    cosines: np.ndarray = np.einsum("nkd,nd->nk", own, embeddings) / lengths
    return np.asarray(cosines.argmax(axis=1))


def dominant(counts: np.ndarray) -> np.ndarray:
    """The centre of each class that has most images, int64 (C,); the first among equals."""
    return np.asarray(counts.argmax(axis=1))


def drop(records: RecordSet, checkpoint: str, *, devices: Optional[List[mx.Context]] = None,
         batch_size: int = 64) -> Dropped:
    """Embed a set, un-augmented, and keep each class's dominant centre.

    Memory is the classifier, twice: at a million classes, 512 and K = 3, 8 GB.

    Raises
    ------
    InputError
        For a checkpoint without a classifier of K > 1 rows for each class of the set.
    """
    prefix, epoch = checkpoints.parse(checkpoint)
    symbol, arg_params, aux_params = checkpoints.load(prefix, epoch)
    count = checkpoints.sub_centers(prefix)
    if count == 1 or "fc7_weight" not in arg_params:
        raise ArgumentError(f"{checkpoint}: this model has one centre a class; train one with "
                            "sub_centers 3.", "sub_centers")
    if arg_params["fc7_weight"].ndim != 2:
        raise InputError(f"{checkpoint}: its classifier has {arg_params['fc7_weight'].ndim} axes "
                         "instead of rows and columns; give the model that was trained.")
    rows, size = arg_params["fc7_weight"].shape
    if rows != count * records.num_classes:
        raise InputError(f"{checkpoint}: its classifier has {rows // count} classes, but "
                         f"{records.path} has {records.num_classes}; give the set it was trained "
                         f"on.")
    weight = arg_params["fc7_weight"].asnumpy().reshape(-1, count, size)
    counts = np.zeros(weight.shape[:2], np.int64)
    embedder = Embedder(symbol, arg_params, aux_params, records.image_size, devices or [mx.cpu()],
                        batch_size)
    if size != embedder.embedding_size:
        raise InputError(f"{checkpoint}: its classifier has {size} columns, but its embedding "
                         f"{embedder.embedding_size} numbers; give the model that was trained.")
    with Bar(len(records), "centres", "images") as bar:
        for _, labels, embeddings, _ in embedder.stream(records):
            labels = labels.astype(np.int64)
            np.add.at(counts, (labels, nearest(embeddings, labels, weight)), 1)
            bar.update(len(labels))
    kept = weight[np.arange(len(weight)), dominant(counts)]
    return Dropped(symbol, dict(arg_params, fc7_weight=mx.nd.array(kept)),
                   aux_params, counts)
