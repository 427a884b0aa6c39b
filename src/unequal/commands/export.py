"""``unequal export``: the embedding network as an ONNX model, for use without MXNet.

The graph is written from the symbol, operator by operator (:data:`OPERATORS`), not by MXNet's own
exporter, which gives PReLU a slope of a shape that onnxruntime rejects. Checkpoints hold PReLU in
one of three forms: MXNet's operator (InsightFace's), or one of the two of
:mod:`unequal.symbols.layers`. All become ONNX's PRelu.
"""
import argparse
import ast
import json
import logging
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import mxnet as mx
import numpy as np

from unequal.commands.arguments import add_image_size
from unequal.data.batches import DATA_NAME
from unequal.errors import InputError, install_hint
from unequal.models import checkpoints
from unequal.models.embedder import embedding_symbol, input_size
from unequal.system.files import replacing
from unequal.system.text import say

logger = logging.getLogger(__name__)

OUTPUT = "embedding"
# 13: per-axis operators as we use them have not changed since; onnxruntime reads it from 1.6 on.
OPSET, IR_VERSION = 13, 7


class Constant(NamedTuple):
    """A value known when exporting: a parameter, or computed from parameters."""

    name: str
    array: np.ndarray


Value = Union[str, Constant]  # the name of a tensor, or a constant
Attributes = Mapping[str, str]  # of a layer of MXNet's, by name
Node = Any  # onnx.NodeProto; onnx is imported only when it is used
Slope = Optional[Tuple[Value, np.ndarray]]  # what PReLU is applied to, and its slope


class _Graph:
    """The ONNX nodes written so far, and the constants that they use."""

    def __init__(self, helper: Any) -> None:
        self._make = helper.make_node
        self.nodes: List[Node] = []
        self.constants: Dict[str, np.ndarray] = {}  # of those a node uses
        self.producer: Dict[str, Node] = {}  # tensor -> node

    def node(self, op: str, name: str, inputs: Iterable[Value], **attributes: Any) -> str:
        """Add a node with one output, ``name``, which is returned."""
        names = [self._use(value) for value in inputs]
        made = self._make(op, names, [name], name=name, **attributes)
        self.nodes.append(made)
        self.producer[name] = made
        return name

    def _use(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        self.constants[value.name] = value.array
        return value.name

    def prune(self, output: str) -> None:
        """Drop nodes and constants that ``output`` does not need."""
        needed, kept = {output}, []
        for made in reversed(self.nodes):
            if made.output[0] in needed:
                needed.update(made.input)
                kept.append(made)
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}


# (graph, name, attributes, inputs) of a layer -> its value
Converter = Callable[[_Graph, str, Attributes, Sequence[Value]], Value]


def _scalar(op: str, turned: bool = False) -> Converter:
    """``x op scalar``, or ``scalar op x`` when ``turned``."""
    table: Dict[str, np.ufunc] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply,
                                  "Div": np.divide}
    compute = table[op]

    def convert(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
        scalar = np.float32(attrs["scalar"])
        if isinstance(inputs[0], Constant):
            numbers = (scalar, inputs[0].array) if turned else (inputs[0].array, scalar)
            return Constant(name, compute(*numbers))
        operands: List[Value] = [inputs[0], Constant(name + "_scalar", np.array(scalar))]
        return graph.node(op, name, operands[::-1] if turned else operands)
    return convert


def _identity(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    return inputs[0]


def _reshape(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    return Constant(name, _parameter(inputs[0], name).reshape(_tuple(attrs["shape"])))


def _parameter(value: Value, name: str) -> np.ndarray:
    """The array of an input of layer ``name`` that must be a parameter."""
    if not isinstance(value, Constant):
        raise InputError(f"Layer {name}: {value} is computed, but only a parameter can be exported "
                         "there.")
    return value.array


def _tuple(text: str) -> Tuple[int, ...]:
    return tuple(int(number) for number in ast.literal_eval(text))


def _true(attrs: Attributes, key: str, default: str = "False") -> bool:
    return attrs.get(key, default) in ("True", "1")


def _convolution(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    pad = _tuple(attrs.get("pad", "(0, 0)"))
    return graph.node(
        "Conv", name, inputs, kernel_shape=_tuple(attrs["kernel"]),
        strides=_tuple(attrs.get("stride", "(1, 1)")),
        dilations=_tuple(attrs.get("dilate", "(1, 1)")), pads=pad + pad,
        group=int(attrs.get("num_group", 1)))


def _batch_norm(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    data, gamma, beta, mean, var = inputs
    if _true(attrs, "fix_gamma", "True"):  # MXNet's default, and then the stored one is not used
        gamma = Constant(name + "_gamma_fixed", np.ones_like(_parameter(gamma, name)))
    return graph.node("BatchNormalization", name, [data, gamma, beta, mean, var],
                      epsilon=float(attrs.get("eps", 1e-3)))


def _fully_connected(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    data = graph.node("Flatten", name + "_flatten", inputs[:1], axis=1)
    return graph.node("Gemm", name, [data, *inputs[1:]], transB=1)


def _activation(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
    return graph.node(_known(kinds, attrs["act_type"], name), name, inputs)


def _leaky_relu(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    _known({"prelu": None}, attrs.get("act_type", "leaky"), name)
    data, gamma = inputs
    return _prelu(graph, name, data, _parameter(gamma, name))


def _prelu(graph: _Graph, name: str, data: Value, slope: np.ndarray) -> Value:
    # The slope needs the shape of one picture's channels to be broadcast along them.
    return graph.node("PRelu", name, [data, Constant(name + "_slope", slope.reshape(-1, 1, 1))])


def _pooling(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    kind = attrs.get("pool_type", "max")
    if _true(attrs, "global_pool"):
        return graph.node(_known({"avg": "GlobalAveragePool"}, kind, name), name, inputs)
    _known({"valid": None}, attrs.get("pooling_convention", "valid"), name)  # sizes rounded down
    pad = _tuple(attrs.get("pad", "(0, 0)"))
    return graph.node(_known({"max": "MaxPool"}, kind, name), name, inputs,
                      kernel_shape=_tuple(attrs["kernel"]),
                      strides=_tuple(attrs.get("stride", "(1, 1)")), pads=pad + pad)


def _two_tensors(op: str) -> Converter:
    def convert(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
        return graph.node(op, name, inputs)
    return convert


def _add(graph: _Graph, name: str, attrs: Attributes, inputs: Sequence[Value]) -> Value:
    for find in (_depthwise_prelu, _elementwise_prelu):
        found = find(graph, inputs)
        if found is not None:
            return _prelu(graph, name, *found)
    return graph.node("Add", name, inputs)


def _made_by(graph: _Graph, value: Value, op: str) -> Optional[Node]:
    """The node that makes ``value``, when its operator is ``op``; otherwise None."""
    made = graph.producer.get(value) if isinstance(value, str) else None
    return made if made is not None and made.op_type == op else None


def _depthwise_prelu(graph: _Graph, inputs: Sequence[Value]) -> Slope:
    """``(x, slope)`` when the sum is layers.prelu_depthwise of x, otherwise None."""
    weights, convolutions = [], []
    for value in inputs:
        made = _made_by(graph, value, "Conv")
        if made is None or len(made.input) != 2:  # two: no bias
            return None
        weights.append(graph.constants[made.input[1]])
        convolutions.append(made)
    positive, linear = convolutions
    relu = _made_by(graph, positive.input[0], "Relu")
    one_minus, slope = weights
    if relu is None or relu.input[0] != linear.input[0] or slope.shape[1:] != (1, 1, 1) or not (
            np.array_equal(one_minus, 1 - slope)):
        return None
    return linear.input[0], slope


def _elementwise_prelu(graph: _Graph, inputs: Sequence[Value]) -> Slope:
    """``(x, slope)`` when the sum is layers.prelu of x, otherwise None."""
    relu, scaled = (_made_by(graph, value, op) for value, op in zip(inputs, ("Relu", "Mul")))
    if relu is None or scaled is None or scaled.input[1] not in graph.constants:
        return None
    negative = _made_by(graph, scaled.input[0], "Sub")
    slope = graph.constants[scaled.input[1]]
    if negative is None or list(negative.input) != [relu.input[0], relu.output[0]] or (
            slope.shape != (1, slope.size, 1, 1)):
        return None
    return relu.input[0], slope


def _known(table: Mapping[str, Any], key: str, name: str) -> Any:
    if key not in table:
        raise InputError(f"Layer {name}: {key} cannot be exported; known are {', '.join(table)}.")
    return table[key]


OPERATORS: Dict[str, Converter] = {  # by MXNet's names
    "_copy": _identity,
    "Dropout": _identity,
    "BlockGrad": _identity,
    "_plus_scalar": _scalar("Add"),
    "_minus_scalar": _scalar("Sub"),
    "_rminus_scalar": _scalar("Sub", turned=True),
    "_mul_scalar": _scalar("Mul"),
    "_div_scalar": _scalar("Div"),
    "Reshape": _reshape,
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "FullyConnected": _fully_connected,
    "Activation": _activation,
    "LeakyReLU": _leaky_relu,
    "Pooling": _pooling,
    "broadcast_mul": _two_tensors("Mul"),
    "elemwise_mul": _two_tensors("Mul"),
    "broadcast_sub": _two_tensors("Sub"),
    "elemwise_sub": _two_tensors("Sub"),
    "broadcast_add": _add,
    "elemwise_add": _add,
}


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise InputError("The package onnx is not installed: "
                         + install_hint("onnx") + ".") from None
    return onnx


def _fill(graph: _Graph, symbol: mx.sym.Symbol, parameters: Mapping[str, np.ndarray]) -> Value:
    """Convert every node of ``symbol`` into ``graph``; return the value of its output."""
    content = json.loads(symbol.tojson())
    values: List[Value] = []
    for node in content["nodes"]:
        name, op = node["name"], node["op"]
        if op == "null":
            if name != DATA_NAME and name not in parameters:
                raise InputError(f"The checkpoint lacks the parameter {name}.")
            values.append(name if name == DATA_NAME else Constant(name, parameters[name]))
            continue
        inputs = [values[index] for index, *_ in node["inputs"]]
        convert = _known(OPERATORS, op, name)
        values.append(convert(graph, name, node.get("attrs", {}), inputs))
    return values[content["heads"][0][0]]


def _normalisation(graph: _Graph) -> Tuple[float, float]:
    """(offset, scale) that the graph itself applies to pixels: ``(x - offset) * scale``."""
    offset, scale, value = 0.0, 1.0, DATA_NAME
    for made in graph.nodes:
        if made.input[0] != value or made.op_type not in ("Sub", "Mul"):
            break
        number = float(graph.constants[made.input[1]])
        offset, scale = (number, scale) if made.op_type == "Sub" else (offset, number)
        value = made.output[0]
    return offset, scale


def to_onnx(symbol: mx.sym.Symbol, arg_params: Dict[str, mx.nd.NDArray],
            aux_params: Dict[str, mx.nd.NDArray],
            image_size: Optional[Sequence[int]] = None) -> Any:
    """The embedding network as an ONNX model.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
        With an internal output ``fc1_output``; what follows it (the training head) is cut off.
    arg_params, aux_params : dict of str to mxnet.ndarray.NDArray
        Parameters; ones that the embedding does not use are left out.
    image_size : tuple of int, optional
        (height, width); default: found from the weights
        (:func:`unequal.models.embedder.input_size`).

    Returns
    -------
    onnx.ModelProto
        Input ``data`` float32 (batch, 3, height, width), RGB 0-255; output ``embedding`` float32
        (batch, D), not normalised; ``batch`` is free. Its metadata says so too: ``embedding_size``,
        ``input_size`` (``HEIGHTxWIDTH``), ``channel_order``, ``layout``, ``pixel_range``, and
        ``input_normalisation``, which the model itself applies.

    Raises
    ------
    InputError
        When the package onnx is missing, the symbol holds an operator that is not in
        :data:`OPERATORS`, or a parameter is missing.
    """
    onnx = _onnx()
    embedding = embedding_symbol(symbol)
    if image_size is None:
        image_size = input_size(embedding, arg_params)
    parameters = {name: array.asnumpy() for params in (arg_params, aux_params)
                  for name, array in params.items()
                  if name in embedding.list_inputs()}
    graph = _Graph(onnx.helper)
    with np.errstate(all="ignore"):  # what is not finite is found below
        last = _fill(graph, embedding, parameters)
    graph.node("Identity", OUTPUT, [last])
    graph.prune(OUTPUT)
    for name, array in graph.constants.items():
        if not np.isfinite(array).all():
            raise InputError(f"The parameter {name} holds nan or infinity; give a checkpoint from "
                             "before the training diverged.")
    shape = (1, 3) + tuple(image_size)
    _, ((_, size),), _ = embedding.infer_shape(**{DATA_NAME: shape})
    offset, scale = _normalisation(graph)
    value_info = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "embedding",
            [value_info(DATA_NAME, onnx.TensorProto.FLOAT, ("batch",) + shape[1:])],
            [value_info(OUTPUT, onnx.TensorProto.FLOAT, ("batch", size))],
            [onnx.numpy_helper.from_array(array, name)
             for name, array in graph.constants.items()]),
        producer_name="unequal", ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    onnx.helper.set_model_props(model, {
        "embedding_size": str(size),
        "input_size": "x".join(map(str, image_size)),
        "layout": "NCHW",
        "channel_order": "RGB",
        "pixel_range": "0-255",
        "input_normalisation": f"in the model: (x - {offset:g}) * {scale:g}",
    })
    onnx.checker.check_model(model)
    return model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``unequal export``."""
    parser.description = (
        "Write the embedding of a checkpoint, without its training head, as an ONNX model that "
        "takes RGB pixels 0-255, any number of pictures at once.")
    parser.add_argument("--model", required=True, metavar="PREFIX,EPOCH", help="checkpoint")
    parser.add_argument("--onnx", required=True, metavar="OUT.onnx", help="file to write")
    add_image_size(parser)


def run(options: argparse.Namespace) -> None:
    """``unequal export``: write the model, say what it takes and gives.

    Raises
    ------
    InputError
        See :func:`to_onnx`.
    """
    onnx = _onnx()  # before a large checkpoint is read for nothing
    symbol, arg_params, aux_params = checkpoints.load(*checkpoints.parse(options.model, "model"))
    try:
        model = to_onnx(symbol, arg_params, aux_params, options.image_size)
    except (LookupError, ValueError, TypeError, OverflowError, mx.base.MXNetError,
            onnx.checker.ValidationError) as error:
        raise InputError(f"--model {options.model}: its network is put together in a way that has "
                         f"no translation to ONNX here ({type(error).__name__}: "
                         f"{' '.join(str(error).split())[:200]}).") from error
    with replacing(options.onnx, binary=True) as file:
        file.write(model.SerializeToString())
    facts = ", ".join(f"{entry.key} {entry.value}" for entry in model.metadata_props)
    say(f"{options.onnx}: {facts}")
