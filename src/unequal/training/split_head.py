"""The settings of a head whose classifier is split over devices (:mod:`split_learner`)."""
from typing import Any, Dict, NamedTuple, Optional

import mxnet as mx

from unequal.symbols import heads, margins


class SplitHead(NamedTuple):
    """The settings of a head of :mod:`unequal.symbols.heads`, for a split classifier."""

    num_classes: int
    embedding_size: int
    margin: margins.Margin
    normalizer: float  # divides the summed loss of a device
    beta: float = 1.0  # 1: cross-entropy of the labels (step 2)
    threshold: float = 0.0
    loss_scale: float = 1.0
    head_size: Optional[int] = None  # rows of each device that have a class; None: all (steps 2, 3)
    tail: Optional[Dict[str, Any]] = None  # step 4: options of heads.center_dispersed_loss

    def backbone(self, embedding: mx.sym.Symbol, label: mx.sym.Symbol) -> mx.sym.Symbol:
        """The data-parallel part: outputs ``embedding`` (N, D), whose gradient the learner
        supplies, the labels, and in step 4 the tail's loss."""
        outputs = [mx.sym.identity(embedding, name="embedding")]
        if self.tail is not None:
            rows = mx.sym.slice_axis(embedding, axis=0, begin=self.head_size, end=None)
            loss, _ = heads.center_dispersed_loss(rows, loss_scale=self.loss_scale, **self.tail)
            outputs.append(loss)
        return mx.sym.Group([*outputs, mx.sym.BlockGrad(label, name="labels")])
