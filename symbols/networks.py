"""The table of backbones: which module builds the network that ``--network`` names.

A new backbone is a module with a ``build`` and a row here. Nothing here imports MXNet before a
network is built: the command line takes its help from this table and must work even if MXNet does
not (``unequal doctor``).
"""
import importlib
from typing import TYPE_CHECKING, NamedTuple, Tuple

from unequal.errors import ArgumentError, lookup

if TYPE_CHECKING:
    from unequal.symbols.layers import Symbol


class Family(NamedTuple):
    """Networks that one function builds."""

    module: str  # in this folder; its ``build`` makes the symbol
    names: Tuple[str, ...]
    about: str  # in the help of ``--network``


FAMILIES = (
    Family("fresnet", ("n8", "r18", "r34", "r49", "r50", "r74", "r90", "r100", "r101", "r124",
                       "r152", "r200", "r269"), "r18 ... r269; n8 for small pictures"),
    Family("mobilefacenet", ("y1",), "y1, MobileFaceNet"),
)
MODULES = {name: family.module for family in FAMILIES for name in family.names}
ABOUT = "; ".join(family.about for family in FAMILIES)


def get_symbol(network: str = "r50", embedding_size: int = 512, *, version_se: int = 0,
               version_input: int = 1, version_output: str = "E", version_unit: int = 3,
               version_act: str = "prelu", bn_momentum: float = 0.9,
               depthwise_prelu: bool = True, dtype: str = "float32") -> "Symbol":
    """The embedding network as a symbol of one input, ``data`` (N, 3, H, W), RGB 0-255.

    Parameters
    ----------
    network : str
        A name in :data:`FAMILIES` (``--network``): ``n8``, ``r18`` ... ``r269``, or ``y1``,
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
    from unequal.symbols.layers import ACTIVATIONS, DTYPES, Layers

    module = importlib.import_module("unequal.symbols." + lookup(MODULES, network, "network"))
    lookup(ACTIVATIONS, version_act, "version_act")
    lookup({0: None, 1: None}, version_se, "version_se")
    lookup(dict.fromkeys(DTYPES), dtype, "dtype")
    layers = Layers(version_act, bn_momentum, depthwise_prelu, dtype)
    return module.build(network, embedding_size, layers, version_se=version_se,
                        version_input=version_input, version_output=version_output,
                        version_unit=version_unit)


def check_size(symbol: "Symbol", network: str, image_size: Tuple[int, int]) -> None:
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
    from mxnet.base import MXNetError

    try:
        symbol.infer_shape_partial(data=(1, 3) + tuple(image_size))
    except MXNetError as error:
        height, width = image_size
        raise ArgumentError(
            f"network {network}: pictures of {height}x{width} are too small for its layers; pack "
            "them larger (112x112 is usual), or take another network (n8 is for small pictures).",
            "network") from error
