"""Turn pictures into embeddings: the one place where a network runs for inference."""
import logging
import math
import os
import threading
from collections.abc import Mapping, Set
from concurrent.futures import Future
from contextlib import contextmanager
from typing import (
    Dict,
    Iterable,
    Iterator,
    List,
    Literal,
    Optional,
    Sequence,
    Tuple,
    Union,
    cast,
    overload,
)

import cv2
import mxnet as mx
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import normalize

from unequal.data import pictures as images
from unequal.data.batches import DATA_NAME
from unequal.data.loading import BatchBuffers, PictureLoader, PictureSource
from unequal.errors import ArgumentError, InputError
from unequal.models import checkpoints
from unequal.system import interrupts, mxnet_private, progress, runtime

logger = logging.getLogger(__name__)

EMBEDDING = "fc1_output"

Loose = Union[str, "os.PathLike[str]", images.Encoded]  # a picture of LoosePictures
Pictures = Union[PictureSource, Iterable[Loose]]  # the X of Embedder.transform
Params = Dict[str, mx.nd.NDArray]
# Of Embedder.stream: start, labels, plain, flipped.
Embedded = Tuple[int, np.ndarray, np.ndarray, Optional[np.ndarray]]


class PictureList:
    """Encoded pictures in memory, read like a record set (``image(key)`` with key 0, 1, ...)."""

    def __init__(self, pictures: Sequence[images.Encoded], name: str) -> None:
        self._pictures = pictures
        self.path = name
        self.image_keys = np.arange(len(pictures))

    def image(self, key: int) -> Tuple[int, images.Encoded]:
        """``(0, picture)``."""
        return 0, self._pictures[key]


class LoosePictures:
    """Pictures that belong to no set, scaled to one size; read like a record set.

    The whole picture is scaled: crop and align faces first, as the network was trained
    (``unequal pack`` does).

    Parameters
    ----------
    pictures : sequence
        Of paths (str or os.PathLike), encoded bytes, or RGB arrays, uint8 (height, width, 3).
    image_size : tuple of int
        (height, width) in pixels.

    Memory: the sequence; files are read when their turn comes.
    """

    path = "pictures"

    def __init__(self, pictures: Union[Sequence[Loose], np.ndarray],
                 image_size: Sequence[int]) -> None:
        self._pictures, self._size = pictures, (image_size[0], image_size[1])
        self.image_keys = np.arange(len(pictures))

    def image(self, key: int) -> Tuple[int, np.ndarray]:
        """``(0, RGB pixels)``."""
        picture, name = self._pictures[key], f"picture {key}"
        if isinstance(picture, (str, os.PathLike)):
            name = os.fspath(picture)
            picture = images.read(name)
        elif not isinstance(picture, (bytes, bytearray, np.ndarray)):
            raise InputError(f"{name} is a {type(picture).__name__}; give a path, encoded bytes or "
                             "RGB pixels.")
        pixels = images.decode(picture, name)
        if pixels.shape[:2] == self._size:
            return 0, pixels
        # Averaging when shrinking: other interpolations skip pixels.
        smaller = pixels.shape[0] > self._size[0] and pixels.shape[1] > self._size[1]
        return 0, cv2.resize(pixels, self._size[::-1],
                             interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


# Sides that input_size() tries: the usual one, then those that halve four times without remainder.
_SIDES = (112,) + tuple(side for side in range(16, 513, 16) if side != 112)


def input_size(symbol: mx.sym.Symbol, arg_params: Params) -> Tuple[int, int]:
    """(height, width) of the pictures a network was trained on, from the shapes of its weights.

    The weights of the fully connected layer tell the size of its input. Several picture sizes can
    lead to it (112 and 97 both end in 7x7); then 112 is taken, or else the smallest multiple of
    16.

    Raises
    ------
    InputError
        When no square picture fits.
    """
    for side in _SIDES:
        try:
            shapes, _, _ = symbol.infer_shape_partial(**{DATA_NAME: (1, 3, side, side)})
        except mx.base.MXNetError:  # too small for the network
            continue
        if all(arg_params[name].shape == tuple(shape)
               for name, shape in zip(symbol.list_arguments(), shapes)
               if shape and name in arg_params):
            return side, side
    raise ArgumentError(f"The weights fit no square picture of {min(_SIDES)} to {max(_SIDES)} "
                        "pixels; say the image_size.", "image_size")


def embedding_symbol(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """The part of ``symbol`` that ends in ``fc1_output``: the training head is cut off."""
    internals = symbol.get_internals()
    if EMBEDDING not in internals.list_outputs():
        raise InputError("The symbol has no output fc1: it is not an InsightFace embedding "
                         "network.")
    return internals[EMBEDDING]


def _check_fit(symbol: mx.sym.Symbol, shape: Sequence[int], arg_params: Params,
               aux_params: Params) -> None:
    """Refuse parameters of wrong shapes, and layers too large for memory, before MXNet binds.

    The network may come from an untrusted file, and MXNet allocates whatever its sizes ask for.
    """
    try:
        args, _, states = symbol.infer_shape_partial(**{DATA_NAME: shape})
    except mx.base.MXNetError as error:
        raise ArgumentError(
            f"The network's layers do not fit pictures of {shape[2]}x{shape[3]} pixels: give "
            "pictures of the size it was trained on (112x112 is usual).", "image_size") from error
    for names, shapes, params in ((symbol.list_arguments(), args, arg_params),
                                  (symbol.list_auxiliary_states(), states, aux_params)):
        for name, needed in zip(names, shapes):
            if name == DATA_NAME:
                continue
            if name not in params:
                raise RuntimeError(f"the parameter {name} is missing")
            if params[name].shape != tuple(needed):
                raise RuntimeError(f"the parameter {name} has shape {params[name].shape} but "
                                   f"should have {tuple(needed)}")
    internals = symbol.get_internals()
    _, layers, _ = internals.infer_shape_partial(**{DATA_NAME: shape})
    size, name = max((math.prod(layer), name)
                     for name, layer in zip(internals.list_outputs(), layers))
    if size * 4 > runtime.memory() // 4:
        raise RuntimeError(f"its layer {name} has {size:,} numbers for a batch of {shape[0]}, too "
                           "many for this machine's memory; lower batch_size")


def _last_line(error: Exception) -> str:
    """The last line of MXNet's message; a stack of calls stands before it."""
    return str(error).strip().splitlines()[-1].strip()


@contextmanager
def _running() -> Iterator[None]:
    """Turn MXNet's errors into InputError: an operator may refuse its attributes only now."""
    try:
        yield
    except mx.base.MXNetError as error:
        raise InputError(f"The network cannot be run: {_last_line(error)}.") from error


class Embedder(TransformerMixin, BaseEstimator):
    """A bound embedding network: pictures in, embeddings out.

    A scikit-learn transformer with nothing to fit: ``transform`` turns pictures into L2-normalised
    features, and an Embedder can be the first step of a pipeline. Several threads may share one:
    they decode their pictures in parallel and take turns at running the network.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
        Anything with an internal output ``fc1_output`` and an input ``data``.
    arg_params, aux_params : dict of str to mxnet.ndarray.NDArray
        Parameters; ones that the embedding does not use are ignored.
    image_size : tuple of int
        (height, width) of the pictures.
    devices : list of mxnet.context.Context, optional
        Default ``[mx.cpu()]``.
    batch_size : int
        Pictures a forward pass; split over the devices. At least one a device.
    flip : bool
        Whether ``transform`` adds the mirror image's embedding (twice the work; the number papers
        quote).

    Raises
    ------
    InputError
        When the symbol has no ``fc1`` or the parameters do not fit it.
    """

    def __init__(self, symbol: mx.sym.Symbol, arg_params: Params, aux_params: Params,
                 image_size: Sequence[int], devices: Optional[Sequence[mx.Context]] = None,
                 batch_size: int = 64, flip: bool = True) -> None:
        self._symbol = embedding_symbol(symbol)
        self._devices = list(devices or [mx.cpu()])
        self._shape = (max(batch_size, len(self._devices)), 3, image_size[0], image_size[1])
        self.flip = flip
        # No other thread may run the network between a forward pass and the copy of its output.
        self._lock = threading.Lock()
        self.load_weights(arg_params, aux_params)

    @classmethod
    def from_checkpoint(cls, checkpoint: str, image_size: Optional[Sequence[int]] = None,
                        devices: Optional[Sequence[mx.Context]] = None, batch_size: int = 64,
                        argument: str = "model", flip: bool = True) -> "Embedder":
        """From ``'prefix,epoch'``; without ``image_size``, :func:`input_size` finds it.

        ``argument`` is named in errors; see :class:`Embedder` for the rest.
        """
        symbol, arg_params, aux_params = checkpoints.load(*checkpoints.parse(checkpoint, argument))
        if image_size is None:
            image_size = input_size(embedding_symbol(symbol), arg_params)
        return cls(symbol, arg_params, aux_params, image_size, devices, batch_size, flip)

    def load_weights(self, arg_params: Params, aux_params: Params) -> None:
        """Use other weights; streams that have begun keep the old ones.

        Binds a new module: on CPUs MXNet fuses convolution and BatchNorm of a network bound for
        inference and keeps the fused weights, so that a second ``set_params`` of the same module
        would have no effect.

        Raises
        ------
        ArgumentError
            When the parameters do not fit the network.
        """
        module = mx.mod.Module(self._symbol, data_names=[DATA_NAME], label_names=None,
                               context=self._devices)
        try:
            _check_fit(self._symbol, self._shape, arg_params, aux_params)
            module.bind([(DATA_NAME, self._shape)], for_training=False)
            module.set_params(arg_params, aux_params, allow_extra=True)
        except (mx.base.MXNetError, RuntimeError) as error:
            raise ArgumentError(
                f"The parameters do not fit the network at {self._shape[2]}x{self._shape[3]} "
                f"pixels: {_last_line(error)}.", "batch_size") from error
        self._module = module

    @property
    def image_size(self) -> Tuple[int, int]:
        """(height, width) of the pictures, in pixels."""
        return self._shape[2:]

    @property
    def embedding_size(self) -> int:
        """Length D of an embedding."""
        return int(self._module.output_shapes[0][1][1])

    def forward(self, data: mx.nd.NDArray) -> np.ndarray:
        """Embeddings of one batch: NDArray (N, 3, H, W) to float32 (N, D)."""
        embeddings: np.ndarray = self.queue(data).asnumpy()
        return embeddings

    def queue(self, data: mx.nd.NDArray) -> mx.nd.NDArray:
        """:meth:`forward` that returns at once: an NDArray still being computed.
        """
        return self._queue(self._module, data, False)[0]

    def _queue(self, module: mx.mod.Module, data: mx.nd.NDArray, flip: bool
               ) -> Tuple[mx.nd.NDArray, Optional[mx.nd.NDArray]]:
        """Embeddings of a batch, and of its mirror images or None."""
        # Copies, because the next batch, maybe another thread's, overwrites the outputs.
        with _running(), self._lock:
            module.forward(mx.io.DataBatch([data]), is_train=False)
            plain = module.get_outputs()[0].copy()
            if not flip:
                return plain, None
            mxnet_private.forward_mirrored(module, DATA_NAME)
            return plain, module.get_outputs()[0].copy()

    def stream(self, source: PictureSource, keys: Optional[np.ndarray] = None,
               flip: bool = False, threads: Optional[int] = None) -> Iterator[Embedded]:
        """Embed pictures batch by batch.

        While the caller uses a batch's embeddings, the network computes the next batch, and the
        batches after it are decoded.

        Parameters
        ----------
        source : RecordSet, PictureList, LoosePictures
            Or another :class:`unequal.data.loading.PictureSource`.
        keys : numpy.ndarray, optional
            Default: all its ``image_keys``.
        flip : bool
            Embed the mirror images too.

        Yields
        ------
        start : int
            Position in ``keys`` of the first row.
        labels : numpy.ndarray
            float32 (n,), as ``source`` gives them.
        plain, flipped : numpy.ndarray
            float32 (n, D); ``flipped`` is None without ``flip``.

        Raises
        ------
        InputError
            For a picture that cannot be decoded or has another size, and for embeddings that are
            not finite.
        Interrupted
            When a signal asks to stop (:mod:`unequal.system.interrupts`).
        """
        keys = np.asarray(source.image_keys if keys is None else keys, np.int64)
        batch_size, module = self._shape[0], self._module
        loader = PictureLoader(source, threads=threads, max_damaged=0)
        buffers = BatchBuffers(self._shape)

        def submit(start: int) -> Tuple[int, int, mx.nd.NDArray, List["Future[np.ndarray]"]]:
            array, view = buffers.take()
            count = min(batch_size, len(keys) - start)
            # The last batch's remaining rows keep older pictures; their outputs are cut off.
            return start, count, array, loader.submit(view[:count], keys, start)

        try:
            starts, before = range(0, len(keys), batch_size), None
            pending = [submit(start) for start in starts[:2]]
            for following in list(starts[2:]) + [None, None]:
                if not pending:
                    break
                interrupts.check()
                start, count, array, futures = pending.pop(0)
                labels = np.concatenate([future.result() for future in futures])
                if following is not None:
                    pending.append(submit(following))
                # A new batch size costs a rebind; worth it for at most half a batch.
                small = len(self._devices) <= count <= batch_size // 2
                data = array[:count] if small else array
                # The array is kept referenced: otherwise decoding would take it for the next
                # batch and wait until the network has read it.
                running = (start, count, labels, *self._queue(module, data, flip), array)
                if before is not None:
                    yield self._finished(*before)
                before = running
            if before is not None:
                yield self._finished(*before)
        except GeneratorExit:
            # Python may drop a stream in any thread at any moment, also while that thread holds
            # a lock that a decoding thread needs to end: waiting for that one would never end.
            loader.abandon()
            raise
        except BaseException:
            loader.close()
            raise
        loader.close()

    @staticmethod
    def _finished(start: int, count: int, labels: np.ndarray, plain: mx.nd.NDArray,
                  flipped: Optional[mx.nd.NDArray], _: mx.nd.NDArray) -> Embedded:
        with _running():
            plain = plain.asnumpy()[:count]
            flipped = None if flipped is None else flipped.asnumpy()[:count]
        if not all(np.isfinite(some).all() for some in (plain, flipped) if some is not None):
            raise InputError("The network gives embeddings that are not finite: its parameters are "
                             "damaged, or training diverged; take another checkpoint.")
        return start, labels, plain, flipped

    def features(self, source: PictureSource, keys: Optional[np.ndarray] = None
                 ) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """Normalised features batch by batch; see :meth:`stream` for the arguments.

        Yields
        ------
        labels : numpy.ndarray
            float32 (n,), as ``source`` gives them.
        features : numpy.ndarray
            float32 (n, D): the embedding (with ``flip``, plus the mirror image's), of length 1.
        """
        for _, labels, plain, flipped in self.stream(source, keys, self.flip):
            yield labels, normalize(plain if flipped is None else plain + flipped, copy=False)

    def source(self, X: Pictures) -> PictureSource:
        """The argument ``X`` of :meth:`transform` as a source for :meth:`stream`."""
        if hasattr(X, "image_keys"):
            return cast(PictureSource, X)
        if isinstance(X, (str, bytes, os.PathLike)):
            shown = "bytes" if isinstance(X, bytes) else os.fspath(X)
            raise InputError(f"{shown}: expected a list of pictures; put a single one into "
                             "brackets, and open a record set with "
                             "unequal.data.records.RecordSet.")
        if isinstance(X, (Set, Mapping)) or not isinstance(X, Iterable):
            raise ArgumentError(f"X is a {type(X).__name__}; give a list of pictures, whose order "
                                "says which feature is whose.", "X")
        if isinstance(X, np.ndarray) and X.size and X.ndim not in (1, 4):
            raise ArgumentError(f"X has shape {X.shape}; give pictures as an array (n, height, "
                                "width, 3), or put a single one into brackets.", "X")
        if not isinstance(X, (list, tuple, np.ndarray)):
            X = list(X)
        return LoosePictures(X, self.image_size)

    def fit(self, X: object = None, y: object = None) -> "Embedder":
        """Nothing to learn; returns itself (scikit-learn's convention)."""
        return self

    def transform(self, X: Pictures) -> np.ndarray:
        """Features of pictures.

        Parameters
        ----------
        X : iterable, or unequal.data.records.RecordSet
            Paths, encoded bytes, or RGB arrays, uint8 (height, width, 3), which are scaled to the
            network's size (:class:`LoosePictures`); or an array (n, height, width, 3). Pictures of
            a record set must have that size. None at all gives features of shape (0, D). A
            generator is read to its end first; sets and dicts, which have no order, are refused.

        Returns
        -------
        numpy.ndarray
            float32 (n, D), rows of length 1: 4 * D bytes a picture.

        Raises
        ------
        InputError, OSError
            For a picture that cannot be read; the text names it.
        """
        source = self.source(X)
        result = np.empty((len(source.image_keys), self.embedding_size), np.float32)
        done = 0
        for _, some in self.features(source):
            result[done:done + len(some)] = some
            done += len(some)
        return result

    # scikit-learn's interface of estimators. The network is given, so there are no parameters to
    # tune, and a clone may share it.

    def get_params(self, deep: bool = True) -> Dict[str, object]:
        """``{}``."""
        return {}

    def set_params(self, **params: object) -> "Embedder":
        """Returns itself: there is no parameter to set (scikit-learn's convention).

        Raises
        ------
        ValueError
            For any parameter. Other weights: :meth:`load_weights`.
        """
        if params:
            raise ValueError(f"an Embedder has no parameter {', '.join(sorted(params))}; make "
                             "another one, or give it other weights with load_weights")
        return self

    def __sklearn_clone__(self) -> "Embedder":
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @overload
    def embed(self, source: PictureSource, keys: Optional[np.ndarray] = None, *,
              flip: Literal[True], threads: Optional[int] = None, label: str = "embedding"
              ) -> Tuple[np.ndarray, np.ndarray]: ...

    @overload
    def embed(self, source: PictureSource, keys: Optional[np.ndarray] = None, flip: bool = False,
              threads: Optional[int] = None, label: str = "embedding"
              ) -> Tuple[np.ndarray, Optional[np.ndarray]]: ...

    def embed(self, source: PictureSource, keys: Optional[np.ndarray] = None, flip: bool = False,
              threads: Optional[int] = None, label: str = "embedding"
              ) -> Tuple[np.ndarray, Optional[np.ndarray]]:
        """Embed pictures into one array; see :meth:`stream`.

        Returns
        -------
        plain, flipped : numpy.ndarray
            float32 (n, D); ``flipped`` is None without ``flip``. 4 * D bytes a picture.
        """
        keys = np.asarray(source.image_keys if keys is None else keys, np.int64)
        plain = np.empty((len(keys), self.embedding_size), np.float32)
        flipped = np.empty_like(plain) if flip else None
        with progress.Bar(len(keys), label, "images") as bar:
            for start, _, some, some_flipped in self.stream(source, keys, flip, threads):
                plain[start:start + len(some)] = some
                if flipped is not None:
                    flipped[start:start + len(some)] = some_flipped
                bar.update(len(some))
        return plain, flipped
