"""What pointwise fusion, on by default on GPUs, would do to the heads' whole numbers.

It makes one kernel of neighbouring pointwise operators and computes those of a scalar in float32
(MXNet 1.9.1, src/operator/fusion/fused_op-inl.h): exact to 2**24 only. No GPU is needed to see
that no such operator computes an integer.
"""
import json

import mxnet as mx
import numpy as np
import pytest

from unequal.symbols import heads, margins, operators
from unequal.symbols.margins import Margin

# The scalar operators of ops_desc, fused_op-inl.h:137-168 and 211-222 (v1.9.1).
SCALAR = {"_plus_scalar", "_minus_scalar", "_rminus_scalar", "_mul_scalar", "_div_scalar",
          "_rdiv_scalar", "_power_scalar", "_rpower_scalar", "_mod_scalar", "_rmod_scalar",
          "_hypot_scalar", "smooth_l1"}
CLASSES, SIZE = 7, 4
EMBEDDING, LABEL = mx.sym.Variable("emb"), mx.sym.Variable("label")
MARGINS = [Margin(loss_type=0), Margin(loss_type=1), Margin(loss_type=2), Margin(loss_type=4),
           Margin(loss_type=4, easy_margin=1), Margin(loss_type=5, margin_b=0.1)]


def integers_by_scalars(symbol):
    """Names of the nodes where a fusable operator of a scalar reads or writes whole numbers."""
    internals = symbol.get_internals()
    # SphereFace's argument has no type of its own.
    known = {name: np.float32 for name in symbol.list_arguments()}
    _, types, _ = internals.infer_type(**known)
    kind = dict(zip(internals.list_outputs(), types))
    nodes = json.loads(symbol.tojson())["nodes"]

    def is_integer(node):
        return any(np.issubdtype(value, np.integer) for name, value in kind.items()
                   if name in (node["name"], node["name"] + "_output"))

    return [node["name"] for node in nodes if node["op"] in SCALAR and (
        is_integer(node) or any(is_integer(nodes[number]) for number, *_ in node["inputs"]))]


def every_head(margin):
    """Every head in its form for GPUs."""
    numbers = dict(beta=0.9, normalizer=8, on_cpu=False)
    step4 = dict(numbers, head_size=4, tail_identities=2, images_per_identity=2, interweight=1.0)
    given = EMBEDDING, LABEL, CLASSES, SIZE, margin
    yield "step 2", heads.softmax_head(*given)
    for composed in (False, True):
        yield "step 3", heads.nra_head(*given, composed=composed, **numbers)
        yield "step 4", heads.unequal_head(*given, composed=composed, **step4)


@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: str(margin.loss_type))
def test_no_integer_is_computed_by_a_fusable_operator_of_a_scalar(margin):
    for name, head in every_head(margin):
        assert integers_by_scalars(head) == [], name


def test_such_an_operator_is_found():
    row = mx.sym.cast(mx.sym.contrib.arange_like(LABEL, axis=0), "int32")
    position = row * CLASSES + mx.sym.cast(LABEL, "int32")
    assert len(integers_by_scalars(position)) == 1


@pytest.mark.parametrize("rows, classes", [(200, 96_499), (2000, 1_000_003)])
def test_positions_beyond_float_precision(rows, classes):
    label = (np.arange(rows, dtype=np.int64) * 7919 + 1) % classes
    given = mx.nd.array(label)
    found = margins.positions(LABEL, classes).bind(mx.cpu(), {"label": given}).forward()[0]
    assert found.dtype == np.int32
    expected = np.arange(rows, dtype=np.int64) * classes + label
    assert expected.max() > 2 ** 24 and (expected.astype(np.float32) != expected).any()
    np.testing.assert_array_equal(found.asnumpy(), expected)


def test_gradient_by_arrays_beyond_float_precision():
    rows, classes = 180, 96_499
    label = np.arange(rows) * 501 + 1
    probability = np.full((rows, classes), 0.5, np.float32)
    out = mx.nd.array(probability), mx.nd.array(label + 2)
    gradient = operators.backward_arrays(mx.nd.array(label), out, 0.75, 1.0, 0.0).asnumpy()
    np.testing.assert_array_equal(gradient[range(rows), label], 0.5 - 0.75)
    np.testing.assert_array_equal(gradient[range(rows), label + 2], 0.5 - 0.25)
    assert np.count_nonzero(gradient != 0.5) == 2 * rows
