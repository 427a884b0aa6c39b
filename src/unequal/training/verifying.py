"""Verification of the network in training."""
import logging
from typing import Any, Dict, Sequence

import mxnet as mx

from unequal.errors import ArgumentError
from unequal.eval import bins, verification
from unequal.models.embedder import Embedder, PictureList

logger = logging.getLogger(__name__)


class Verifier:
    """Ten-fold accuracy on the target sets, as InsightFace measures it.

    Keeps the encoded pictures in memory (a few hundred MB for lfw, cfp_fp and agedb_30 at 112x112)
    and decodes them, batch by batch, at each verification.

    Parameters
    ----------
    config : unequal.training.config.Config
        Its ``data_dir``, ``eval_dir`` and ``target`` say where the sets are; ``select`` must be
        one of them or ``mean``.
    symbol : mxnet.symbol.Symbol
        With the internal output ``fc1_output``.
    image_size : tuple of int
        (height, width) in pixels.
    devices : list of mxnet.context.Context

    Raises
    ------
    InputError
        When a set is there but cannot be read.
    """

    def __init__(self, config: Any, symbol: mx.sym.Symbol, image_size: Sequence[int],
                 devices: Sequence[mx.Context]) -> None:
        self._symbol, self._size, self._devices = symbol, image_size, devices
        paths = bins.find_sets(config.data_dir, config.eval_dir, config.target.split(","))
        self._sets = []
        if config.select != "mean" and config.select not in paths:
            raise ArgumentError(
                f"select {config.select} is not among the verification sets that were found "
                f"({', '.join(paths) or 'none'}); name one of them or `mean`.", "select")
        for name, path in paths.items():
            pictures, issame = bins.load_bin(path)
            self._sets.append((name, PictureList(pictures, path), issame))
            logger.info("ver %s (%s, %d pairs)", name, path, len(issame))

    def __call__(self, arg_params: dict, aux_params: dict) -> Dict[str, Any]:
        """``{target: unequal.eval.verification.evaluate(...)}`` of these weights."""
        if not self._sets:
            return {}
        embedder = Embedder(self._symbol, arg_params, aux_params, self._size, self._devices,
                            batch_size=64 * len(self._devices))
        results = {}
        for name, pictures, issame in self._sets:
            plain, flipped = embedder.embed(pictures, flip=True, label=name)
            results[name] = verification.evaluate(plain, flipped, issame)
        return results
