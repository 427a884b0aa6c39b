"""Read checkpoint files from untrusted sources, without MXNet's own parsers.

MXNet trusts such files: ``mx.nd.load`` allocates the sizes it finds, ``mx.sym.load`` follows the
indices it finds, so that a flipped bit can end the process, and an operator may run code or read
files. Here arrays are read in Python, and their sizes checked against that of the file. A symbol
is written anew from checked parts before MXNet sees it.
"""
import json
import os
import re
import struct
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import mxnet as mx
import numpy as np

from unequal.errors import InputError
from unequal.system.files import open_input
from unequal.system.mxnet_private import numpy_view

EMBEDDING = "fc1"

Params = Dict[str, mx.nd.NDArray]
Node = Dict[str, Any]  # of a symbol's JSON: op, name, attrs, inputs

# NDArray::Save of MXNet 1.x: what a list of arrays and one array begin with.
_LIST = struct.Struct("<QQQ")  # magic, 0, number of arrays
_LIST_MAGIC = 0x112
_ARRAY_MAGICS = {0xF993FAC8: False, 0xF993FAC9: True, 0xF993FACA: True}  # has a storage type
_TYPES = dict(enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")))
_MAX_DIMENSIONS = 8
_MAX_NAME = 1000
_MAX_SYMBOL = 16 << 20  # bytes of JSON; r269's has less than 1 MB
# Layers, with their weights, and arrays. r269 has 2,700 of both; MXNet takes minutes for 100,000.
_MAX_NODES = 10000
_MAX_DIGITS = 20  # of a number in JSON
_MAX_VALUE = 1000  # characters of an attribute


class _Wrong(Exception):
    """Says what is wrong with a file; the file's name is added later."""


class _Reader:
    """Reads a file and refuses to read beyond its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = os.fstat(file.fileno()).st_size

    def unpack(self, form: str) -> Tuple[int, ...]:
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))

    def take(self, size: int) -> None:
        if size > self.left:
            raise _Wrong("it is cut short")
        self.left -= size

    def bytes(self, size: int) -> bytes:
        self.take(size)
        return self._file.read(size)

    def into(self, array: np.ndarray) -> None:
        self.take(array.nbytes)
        self._file.readinto(array)  # type: ignore[attr-defined]  # IO has it not, files do


def _read_array(reader: _Reader) -> mx.nd.NDArray:
    magic, = reader.unpack("I")
    if magic not in _ARRAY_MAGICS:
        raise _Wrong("an array does not begin as one of MXNet 1.x does")
    if _ARRAY_MAGICS[magic] and reader.unpack("i") != (0,):
        raise _Wrong("it holds a sparse array, which no network here has")
    dimensions, = reader.unpack("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise _Wrong(f"an array has {dimensions} dimensions")
    shape = reader.unpack(f"{dimensions}q")
    _device, _number, kind = reader.unpack("iii")
    if kind not in _TYPES:
        raise _Wrong(f"an array holds numbers of the unknown type {kind}")
    dtype = np.dtype(_TYPES[kind])
    size = dtype.itemsize
    for length in shape:
        size *= length
        if length < 1 or size > reader.left:
            raise _Wrong(f"an array says that its shape is {shape}, for which the file is too "
                         "short")
    array = mx.nd.empty(shape, dtype=dtype.newbyteorder("="))
    reader.into(numpy_view(array))
    return array


def _read_name(reader: _Reader) -> str:
    size, = reader.unpack("Q")
    if size > _MAX_NAME:
        raise _Wrong(f"a name is {size} bytes long")
    return reader.bytes(size).decode("utf-8")


def read_arrays(path: str) -> Tuple[Params, Params]:
    """The arrays of a ``.params`` file.

    Parameters
    ----------
    path : str

    Returns
    -------
    arg_params, aux_params : dict of str to mxnet.ndarray.NDArray
        On the CPU. Memory: the file's size, once.

    Raises
    ------
    InputError
        When it is anything else, of MXNet before 0.11, or cut short.
    """
    with open_input(path) as file:
        reader = _Reader(file)
        try:
            magic, _, count = _LIST.unpack(reader.bytes(_LIST.size))
            if magic != _LIST_MAGIC:
                raise _Wrong("it does not begin as one")
            if count > _MAX_NODES:
                raise _Wrong(f"it says that it has {count:,} arrays")
            # The list grows as arrays are read; the announced count allocates nothing.
            arrays = [_read_array(reader) for _ in range(count)]
            if reader.unpack("Q") != (count,):
                raise _Wrong("it has not one name an array")
            names = [_read_name(reader) for _ in range(count)]
            if reader.left:
                raise _Wrong(f"{reader.left} bytes follow its end")
        except (_Wrong, UnicodeDecodeError) as error:
            reason = error if isinstance(error, _Wrong) else "a name is not text"
            raise InputError(f"{path}: not a checkpoint's parameters: {reason}; copy it again, or "
                             "give a file that MXNet 1.x saved.") from None
    params: Dict[str, Params] = {"arg": {}, "aux": {}}
    for name, array in zip(names, arrays):
        kind, _, name = name.partition(":")
        if kind not in params or not name or name in params[kind]:
            raise InputError(f"{path}: not a checkpoint's parameters: the name "
                             f"{kind + ':' + name!r} occurs twice or does not begin with arg: or "
                             "aux:.")
        params[kind][name] = array
    return params["arg"], params["aux"]


# Operator -> numbers of inputs it may have; None: as many as num_args says. These are the operators
# of embedding networks; none of them runs code, reads files or holds another graph.
_ONE, _TWO = (1,), (2,)
_OPERATORS: Dict[str, Optional[Tuple[int, ...]]] = {
    "Convolution": (2, 3), "FullyConnected": (2, 3), "BatchNorm": (5,), "LeakyReLU": (1, 2),
    "InstanceNorm": (3,), "Concat": None, "add_n": None, "ElementWiseSum": None,
    "SliceChannel": _ONE, "L2Normalization": _ONE, "UpSampling": _ONE,
}
_OPERATORS.update(dict.fromkeys((
    "Activation", "Pooling", "Flatten", "Dropout", "Reshape", "transpose", "SwapAxis", "slice_axis",
    "expand_dims", "clip", "Cast", "BlockGrad", "identity", "_copy", "negative", "abs", "square",
    "sqrt", "rsqrt", "exp", "log", "tanh", "sigmoid", "relu", "softmax", "hard_sigmoid", "mean",
    "sum", "max", "min", "_plus_scalar", "_minus_scalar", "_rminus_scalar", "_mul_scalar",
    "_div_scalar", "_rdiv_scalar", "_power_scalar", "_maximum_scalar", "_minimum_scalar",
    "_PlusScalar", "_MinusScalar", "_RMinusScalar", "_MulScalar", "_DivScalar",
), _ONE))
_OPERATORS.update(dict.fromkeys((
    "elemwise_add", "elemwise_sub", "elemwise_mul", "elemwise_div", "_add", "_plus", "_Plus",
    "_sub", "_minus", "_Minus", "_mul", "_Mul", "_div", "_Div", "_maximum", "_minimum",
    "broadcast_add", "broadcast_plus", "broadcast_sub", "broadcast_minus", "broadcast_mul",
    "broadcast_div", "broadcast_maximum", "broadcast_minimum", "_grad_add", "batch_dot",
), _TWO))

# Attribute -> its least and largest allowed number. MXNet divides by some of them unchecked.
_SIZES = {
    "kernel": (1, 1024), "stride": (1, 1024), "dilate": (1, 1024), "pad": (0, 1024),
    "num_filter": (1, 1 << 16), "num_group": (1, 1 << 16), "num_hidden": (1, 1 << 20),
    "num_outputs": (1, 1 << 12), "num_args": (1, 1 << 12), "scale": (1, 64),
}
# Spaces are removed before matching: they could match two parts of a pattern, in quadratic time.
_SIZE_LIST = re.compile(r"[\[(]?(?:\d{1,7}L?(?:,\d{1,7}L?){0,3},?)?[\])]?")
# Attributes that old versions of MXNet add to those of an operator.
_HIDDEN = ("ctx_group", "lr_mult", "wd_mult", "weight_lr_mult", "force_mirroring", "mirror_stage")
_KEPT = {"__shape__": re.compile(r"[\[(][\d,\s]{0,100}[\])]"), "__dtype__": re.compile(r"-?\d")}


def _check(holds: object, what: str, *values: object) -> None:
    """Raise unless ``holds``; the values, which may be large, are put into the text only then."""
    if not holds:
        raise _Wrong(what.format(*values))


def _attributes(node: Node) -> Dict[str, str]:
    merged: Dict[str, str] = {}
    for key in ("param", "attr", "attrs"):  # the names of different MXNet versions
        part = node.get(key, {})
        _check(isinstance(part, dict) and all(isinstance(value, str) for value in part.values()),
               "the attributes of {!r} are not text", node["name"])
        merged.update(part)
    return merged


def _check_sizes(name: str, attributes: Mapping[str, str]) -> None:
    for key, (least, most) in _SIZES.items():
        text = attributes.get(key, "")
        numbers = re.findall(r"\d+", text)
        _check(_SIZE_LIST.fullmatch(re.sub(r"\s", "", text)) or key == "scale",
               "{} of the layer {!r} is {!r}", key, name, text[:50])
        if key != "scale" or re.fullmatch(r"\d{1,7}", text):  # elsewhere a scale is any number
            _check(all(least <= int(number) <= most for number in numbers),
                   "{} of the layer {!r} is {!r}, not {} to {}", key, name, text[:50], least, most)


def _number(attributes: Mapping[str, str], key: str) -> int:
    return int(re.sub(r"\D", "", attributes.get(key, "")) or 0)


def _outputs(node: Node) -> int:
    return _number(node["attrs"], "num_outputs") if node["op"] == "SliceChannel" else 1


def _check_node(node: Any, earlier: Sequence[Node]) -> Node:
    """A node from its checked parts; ``earlier`` are those that may be its inputs."""
    _check(isinstance(node, dict) and isinstance(node.get("name"), str)
           and isinstance(node.get("op"), str) and isinstance(node.get("inputs"), list),
           "node {} lacks an op, a name or inputs", len(earlier))
    name, op, inputs = node["name"], node["op"], node["inputs"]
    _check(0 < len(name) <= _MAX_NAME and "\0" not in name, "a layer has no proper name")
    for entry in inputs:
        _check(isinstance(entry, list) and len(entry) in (2, 3)
               and all(type(number) is int for number in entry)
               and 0 <= entry[0] < len(earlier), "the inputs of the layer {!r} do not exist", name)
    attributes = _attributes(node)
    if op == "null":
        _check(not inputs, "the variable {!r} has inputs", name)
        # A variable's initialiser, learning rate and the like are not needed for inference.
        attributes = {key: value for key, value in attributes.items()
                      if key in _KEPT and _KEPT[key].fullmatch(value)}
    return {"op": op, "name": name, "attrs": attributes,
            "inputs": [[entry[0], entry[1], 0] for entry in inputs]}


def _check_operator(node: Node, nodes: Sequence[Node]) -> None:
    """Checks that are only needed for nodes that ``fc1`` depends on."""
    op, name, attributes = node["op"], node["name"], node["attrs"]
    # MXNet lists attributes as LAYER$ATTRIBUTE and takes that apart.
    _check("$" not in name, "the name of the layer {!r} has a dollar sign", name)
    if op == "null":
        return
    _check(op in _OPERATORS, "the layer {!r} is a {!r}, an operator that embedding networks do not "
           "need", name, op[:50])
    node["attrs"] = attributes = {key: value for key, value in attributes.items()
                                  if not key.startswith("_") and key not in _HIDDEN}
    for key, value in attributes.items():
        _check(len(value) <= _MAX_VALUE, "{} of the layer {!r} has {:,} characters", key[:50], name,
               len(value))
    _check_sizes(name, attributes)
    counts = _OPERATORS[op]
    if counts is None:
        counts = (_number(attributes, "num_args"),)
    _check(len(node["inputs"]) in counts, "the layer {!r} ({}) has {} inputs", name, op,
           len(node["inputs"]))
    for place, output, _ in node["inputs"]:
        _check(0 <= output < _outputs(nodes[place]), "the inputs of the layer {!r} do not exist",
               name)


def _embedding_part(nodes: Sequence[Node]) -> List[int]:
    """Numbers of the nodes that ``fc1`` depends on, in order."""
    ends = [place for place, node in enumerate(nodes)
            if node["name"] == EMBEDDING and node["op"] != "null"]
    _check(len(ends) == 1, "it has {} layers called fc1, where an InsightFace embedding network "
           "has one", len(ends))
    used: Set[int] = set()
    waiting = ends
    while waiting:
        place = waiting.pop()
        if place not in used:
            used.add(place)
            waiting.extend(entry[0] for entry in nodes[place]["inputs"])
    return sorted(used)


def _checked(document: Any) -> Dict[str, Any]:
    _check(isinstance(document, dict) and isinstance(document.get("nodes"), list),
           "it has no list of nodes")
    _check(len(document["nodes"]) <= _MAX_NODES, "it has {:,} layers", len(document["nodes"]))
    nodes: List[Node] = []
    for node in document["nodes"]:
        nodes.append(_check_node(node, nodes))
    used = _embedding_part(nodes)
    for place in used:
        _check_operator(nodes[place], nodes)
    number = {place: new for new, place in enumerate(used)}
    kept = [nodes[place] for place in used]
    names = [node["name"] for node in kept]
    _check(len(set(names)) == len(names), "two layers have one name")
    _check(any(node["name"] == "data" and node["op"] == "null" for node in kept),
           "its layer fc1 does not depend on pictures (data)")
    for node in kept:
        node["inputs"] = [[number[place], output, 0] for place, output, _ in node["inputs"]]
    return {"nodes": kept, "heads": [[len(kept) - 1, 0, 0]],
            "arg_nodes": [place for place, node in enumerate(kept) if node["op"] == "null"],
            "attrs": {"mxnet_version": ["int", 10901]}}


def _integer(digits: str) -> int:
    _check(len(digits) <= _MAX_DIGITS, "it holds a number of {:,} digits", len(digits))
    return int(digits)


def read_symbol(path: str) -> mx.sym.Symbol:
    """The embedding network of a ``-symbol.json`` file: what its layer ``fc1`` depends on.

    A training head is not looked at. Initialisers and multipliers of learning rates are left out.

    Parameters
    ----------
    path : str

    Returns
    -------
    mxnet.symbol.Symbol
        With the output ``fc1_output``.

    Raises
    ------
    InputError
        When it is anything else, or uses an operator or a size that no such network needs.
    """
    try:
        with open_input(path) as file:
            content = file.read(_MAX_SYMBOL + 1)
        _check(len(content) <= _MAX_SYMBOL, "it is too long")
        document = json.loads(content.decode("utf-8"), parse_int=_integer)
        return mx.sym.load_json(json.dumps(_checked(document)))
    except (ValueError, RecursionError):
        reason = "it is not JSON"
    except _Wrong as error:
        reason = str(error)
    except mx.base.MXNetError as error:
        reason = "MXNet says: " + str(error).strip().splitlines()[-1].strip()
    raise InputError(f"{path}: not the symbol of an embedding network: {reason}; give one that "
                     "MXNet 1.x saved.")
