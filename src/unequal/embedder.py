"""Turn pictures into embeddings: the one place where a network runs for inference."""
import logging

import mxnet as mx
import numpy as np

from unequal import checkpoints, progress
from unequal.errors import InputError
from unequal.iterators import DATA_NAME, BatchBuffers, PictureLoader

logger = logging.getLogger(__name__)

EMBEDDING = "fc1_output"


class PictureList:
    """Encoded pictures in memory, read like a record set (``image(key)`` with key 0, 1, ...)."""

    def __init__(self, pictures, name):
        self._pictures = pictures
        self.path = name
        self.image_keys = np.arange(len(pictures))

    def image(self, key):
        """``(0, picture)``."""
        return 0, self._pictures[key]


class Embedder:
    """A bound embedding network.

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
        Pictures a forward pass; split over the devices.

    Raises
    ------
    InputError
        When the symbol has no ``fc1`` or the parameters do not fit it.
    """

    def __init__(self, symbol, arg_params, aux_params, image_size, devices=None, batch_size=64):
        internals = symbol.get_internals()
        if EMBEDDING not in internals.list_outputs():
            raise InputError("The symbol has no output fc1: it is not an InsightFace embedding "
                             "network.")
        self._symbol = internals[EMBEDDING]
        self._devices = devices or [mx.cpu()]
        self._shape = (max(batch_size, len(self._devices)), 3) + tuple(image_size)
        self.set_params(arg_params, aux_params)

    @classmethod
    def from_checkpoint(cls, checkpoint, image_size, devices=None, batch_size=64,
                        flag="--model"):
        """From ``'prefix,epoch'``; see :class:`Embedder` for the rest."""
        symbol, arg_params, aux_params = checkpoints.load(*checkpoints.parse(checkpoint, flag))
        return cls(symbol, arg_params, aux_params, image_size, devices, batch_size)

    def set_params(self, arg_params, aux_params):
        """Use other weights.

        Binds anew: on CPUs MXNet fuses convolution and BatchNorm of a network bound for inference
        and keeps the fused weights, so a second ``set_params`` of the same module would go on
        computing with the first weights.
        """
        module = mx.mod.Module(self._symbol, data_names=[DATA_NAME], label_names=None,
                               context=self._devices)
        try:
            module.bind([(DATA_NAME, self._shape)], for_training=False)
            module.set_params(arg_params, aux_params, allow_extra=True)
        except (mx.base.MXNetError, RuntimeError) as error:
            raise InputError(
                "The parameters do not fit the network at {}x{} pixels: {}.".format(
                    self._shape[2], self._shape[3],
                    str(error).strip().splitlines()[-1].strip())) from error
        self._module = module

    @property
    def image_size(self):
        """(height, width) of the pictures, in pixels."""
        return self._shape[2:]

    @property
    def embedding_size(self):
        """Length D of an embedding."""
        return self._module.output_shapes[0][1][1]

    def forward(self, data):
        """Embeddings of one full batch: NDArray (batch_size, 3, H, W) to float32 (batch_size, D)."""
        self._module.forward(mx.io.DataBatch([data]), is_train=False)
        return self._module.get_outputs()[0].asnumpy()

    def stream(self, source, keys=None, flip=False, threads=None):
        """Embed pictures batch by batch, decoding the next batches meanwhile.

        Parameters
        ----------
        source : RecordSet or PictureList
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
            For a picture that cannot be decoded or has another size.
        """
        keys = source.image_keys if keys is None else keys
        batch_size = self._shape[0]
        loader = PictureLoader(source, threads=threads, max_damaged=0)
        buffers = BatchBuffers(self._shape)
        no_randomness = np.random.RandomState(0)

        def submit(start):
            array, view = buffers.take()
            count = min(batch_size, len(keys) - start)
            # The last batch's remaining rows keep older pictures; their outputs are cut off.
            return start, count, array, loader.submit(view[:count], keys, start, no_randomness)

        try:
            starts = range(0, len(keys), batch_size)
            pending = [submit(start) for start in starts[:2]]
            for following in list(starts[2:]) + [None, None]:
                if not pending:
                    break
                start, count, array, futures = pending.pop(0)
                labels = np.concatenate([future.result() for future in futures])
                if following is not None:
                    pending.append(submit(following))
                plain = self.forward(array)[:count]
                flipped = self.forward(mx.nd.flip(array, axis=3))[:count] if flip else None
                yield start, labels, plain, flipped
        finally:
            loader.close()

    def embed(self, source, keys=None, flip=False, threads=None, label="embedding"):
        """Embed pictures into one array; see :meth:`stream`.

        Returns
        -------
        plain, flipped : numpy.ndarray
            float32 (n, D); ``flipped`` is None without ``flip``. 4 * D bytes a picture.
        """
        keys = source.image_keys if keys is None else keys
        plain = np.empty((len(keys), self.embedding_size), np.float32)
        flipped = np.empty_like(plain) if flip else None
        with progress.Bar(len(keys), label, "images") as bar:
            for start, _, some, some_flipped in self.stream(source, keys, flip, threads):
                plain[start:start + len(some)] = some
                if flip:
                    flipped[start:start + len(some)] = some_flipped
                bar.update(len(some))
        return plain, flipped
