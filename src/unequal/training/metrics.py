"""Numbers for the log, from the named outputs of each batch."""
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

# Beside the symbol's outputs, for metrics: the batch's labels and record keys.
LABEL, KEY = "label", "key"


class Metric(NamedTuple):
    """A number in each log line: the mean of ``function``'s values since the last line.

    ``inputs`` are names of symbol outputs, ``label`` or ``key``; ``function`` takes them as numpy
    arrays (of all devices together) and returns one, which may be empty.
    """

    name: str
    inputs: Sequence[str]
    function: Callable[..., Any]


def accuracy(own: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Share of samples whose largest margin logit is the label's.

    Compares the (log) probabilities of the label and of the most probable class, (N,) each. The
    index of the most probable class is not needed; finding it is slow on a GPU.
    """
    return own >= largest


def cross_entropy(probability: np.ndarray) -> np.ndarray:
    """Negative log of the label's probability."""
    return -np.log(probability + 1e-12)


class Meter:
    """Collect named outputs without waiting for the device; average them when asked.

    Memory: the outputs that the metrics name (a few numbers a picture), of the batches since the
    last :meth:`take`.

    Attributes
    ----------
    names : list of str
        The outputs that the metrics need.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self.names = sorted({name for metric in metrics for name in metric.inputs} - {LABEL, KEY})
        self._batches: List[Tuple[Dict[str, list], Any, Any]] = []

    def add(self, outputs: Dict[str, list], batch: Any) -> None:
        """Add a batch's outputs: ``{name: [array of each device]}``, numpy or NDArray."""
        self._batches.append((outputs, batch.label[0], batch.index))

    def take(self) -> Dict[str, float]:
        """``{metric: mean}`` over the batches added since; waits for the device."""
        values: Dict[str, list] = {metric.name: [] for metric in self._metrics}
        for outputs, label, keys in self._batches:
            arrays = {name: np.concatenate([_numpy(part) for part in parts])
                      for name, parts in outputs.items()}
            arrays.update({LABEL: _numpy(label), KEY: keys})
            for metric in self._metrics:
                value = metric.function(*(arrays[name] for name in metric.inputs))
                values[metric.name].append(np.ravel(value))
        self._batches.clear()
        joined = {name: np.concatenate(parts) for name, parts in values.items() if parts}
        return {name: float(np.mean(value)) for name, value in joined.items() if len(value)}


def _numpy(array: Any) -> np.ndarray:
    return array.asnumpy() if hasattr(array, "asnumpy") else np.asarray(array)
