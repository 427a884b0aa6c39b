"""The table of backbones: a name, as ``--network`` takes it, to what builds it.

A new backbone is a module with a ``build`` and a row here.
"""
from typing import Tuple

import mxnet as mx

from unequal.errors import ArgumentError, lookup
from unequal.symbols import fresnet, mobilefacenet
from unequal.symbols.layers import ACTIVATIONS, DTYPES, Layers

BUILDERS = {**dict.fromkeys(fresnet.NETWORKS, fresnet.build), "y1": mobilefacenet.build}


def get_symbol(network: str = "r50", embedding_size: int = 512, *, version_se: int = 0,
               version_input: int = 1, version_output: str = "E", version_unit: int = 3,
               version_act: str = "prelu", bn_momentum: float = 0.9,
               depthwise_prelu: bool = True, dtype: str = "float32") -> mx.sym.Symbol:
    """The embedding network as a symbol of one input, ``data`` (N, 3, H, W), RGB 0-255.

    Parameters
    ----------
    network : str
        A key of :data:`BUILDERS` (``--network``): ``n8``, ``r18`` ... ``r269``, or ``y1``,
        MobileFaceNet.
    embedding_size : int
        Length of the embedding.
    version_se, version_input, version_output, version_unit, version_act
        The reference's flags of these names; ``version_se`` 1 adds squeeze-and-excitation,
        ``version_act`` is a key of :data:`unequal.symbols.layers.ACTIVATIONS`, the others are keys
        of the tables of :mod:`unequal.symbols.fresnet`.
    bn_momentum : float
        Momentum of BatchNorm's moving averages (``--bn-mom``).
    depthwise_prelu : bool
        Build PReLU as :func:`unequal.symbols.layers.prelu_depthwise`; same parameters, same
        function. True for CPUs.
    dtype : str
        ``float16`` or ``bfloat16``: mixed precision, see :class:`unequal.symbols.layers.Layers`
        (``--dtype``). Parameters and the embedding stay float32, so checkpoints are the same.

    Returns
    -------
    mxnet.symbol.Symbol
        Output ``fc1_output``, (N, embedding_size).

    Raises
    ------
    ArgumentError
        For a value no table holds; the text lists the known ones.
    """
    build = lookup(BUILDERS, network, "network")
    lookup(ACTIVATIONS, version_act, "version_act")
    lookup({0: None, 1: None}, version_se, "version_se")
    lookup(dict.fromkeys(DTYPES), dtype, "dtype")
    layers = Layers(version_act, bn_momentum, depthwise_prelu, dtype)
    return build(network, embedding_size, layers, version_se=version_se,
                 version_input=version_input, version_output=version_output,
                 version_unit=version_unit)


def check_size(symbol: mx.sym.Symbol, network: str, image_size: Tuple[int, int]) -> None:
    """Refuse pictures that are too small for a network's layers, before MXNet binds it.

    A network halves its pictures several times, and ``y1`` then needs features of 7x7: its
    pictures have at least 97x97.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
        What :func:`get_symbol` made of ``network``.
    network : str
    image_size : tuple of int
        (height, width).

    Raises
    ------
    ArgumentError
    """
    try:
        symbol.infer_shape_partial(data=(1, 3) + tuple(image_size))
    except mx.base.MXNetError as error:
        height, width = image_size
        raise ArgumentError(
            f"network {network}: pictures of {height}x{width} are too small for its layers; pack "
            "them larger (112x112 is usual), or take another network (n8 is for small pictures).",
            "network") from error
