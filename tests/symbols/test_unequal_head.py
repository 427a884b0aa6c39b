import mxnet as mx
import numpy as np
import pytest

from helpers.loops import (
    assert_close,
    cases,
    dispersed_loss,
    margin_logits,
    recorded,
    robust_loss,
    run,
    slopes,
    unit,
)
from unequal.errors import InputError
from unequal.symbols import heads, operators
from unequal.symbols.margins import Margin

CLASSES, SIZE, INPUT = 7, 5, 4
MARGIN = Margin(margin_s=8.0)


def head(embedding=None, margin=MARGIN, **options):
    embedding = mx.sym.Variable("emb") if embedding is None else embedding
    return heads.unequal_head(embedding, mx.sym.Variable("label"), CLASSES, SIZE, margin,
                                  **options)


def inputs(head_size, tail_size, seed=0):
    random = np.random.RandomState(seed)
    rows = head_size + tail_size
    label = random.randint(0, CLASSES, rows)
    label[head_size:] = 1000 + np.arange(tail_size)  # no class of the head: must not be used
    return {"emb": random.randn(rows, SIZE).astype(np.float32),
            "fc7_weight": random.randn(CLASSES, SIZE).astype(np.float32),
            "label": label.astype(np.float32)}


def loss_by_loops(arrays, head_size, images_per_identity, interweight, beta, normalizer,
                  threshold=0.0):
    """The whole objective of one device."""
    logits = margin_logits(arrays["emb"][:head_size], arrays["fc7_weight"],
                           arrays["label"][:head_size], MARGIN)
    return (robust_loss(logits, arrays["label"][:head_size], beta, normalizer, threshold)
            + dispersed_loss(arrays["emb"][head_size:], images_per_identity, interweight))


@pytest.mark.parametrize("name", cases("unequal_"))
def test_recorded(name):
    settings, arrays = recorded(name)
    batch, per_identity = settings["batch"], settings["images_per_identity"]
    symbol = heads.unequal_head(
        mx.sym.Variable("emb"), mx.sym.Variable("label"), settings["num_classes"],
        settings["emb_size"],
        Margin(**{key: settings[key] for key in Margin._fields if key in settings}),
        head_size=batch, tail_identities=settings["batchsize_id"] // per_identity,
        images_per_identity=per_identity, interweight=settings["interweight"],
        beta=settings["noise_beta"] if settings["noise"] else 1.0, normalizer=batch // 2)
    logits = mx.sym.BlockGrad(symbol.get_internals()["logits_output"], name="margin_logits")
    outputs, gradients = run(mx.sym.Group([symbol, logits]), arrays)
    for ours, theirs in (("embedding", "out0"), ("head_label", "out1"), ("margin_logits", "out2"),
                         ("tail_label", "out3"), ("loss", "out5"), ("tail_loss", "out6"),
                         ("tail_cosines", "out8")):
        assert_close(outputs[ours], arrays[theirs], 1e-4)
    # out4 is the log-softmax: ours keeps the two entries a row that anyone looks at.
    rows, label = np.arange(batch), arrays["out1"].astype(int)
    assert_close(outputs["label_log_probability"], arrays["out4"][rows, label], 1e-4)
    assert_close(outputs["largest_log_probability"], arrays["out4"].max(axis=1), 1e-4)
    assert outputs["prediction"].tolist() == arrays["out4"].argmax(axis=1).tolist()
    assert_close(gradients["emb"], arrays["grad_emb"], 1e-4)
    # The tail's gradient is far smaller than the head's: looked at by itself too.
    assert_close(gradients["emb"][batch:], arrays["grad_emb"][batch:], 1e-4)
    assert_close(gradients["fc7_weight"], arrays["grad_fc7_weight"], 1e-4)


# (head images, tail identities, images of each)
SIZES = [(6, 2, 3), (6, 3, 2), (2, 5, 1), (3, 2, 5), (7, 4, 3), (4, 1, 3)]


@pytest.mark.parametrize("head_size, identities, per_identity", SIZES)
@pytest.mark.parametrize("interweight, beta", [(1.0, 0.9), (5.0, 1.0), (0.0, 0.4)])
def test_losses_and_gradients_by_loops(head_size, identities, per_identity, interweight, beta):
    arrays = inputs(head_size, identities * per_identity)
    symbol = head(head_size=head_size, tail_identities=identities,
                  images_per_identity=per_identity, interweight=interweight, beta=beta,
                  normalizer=head_size / 2)
    outputs, gradients = run(symbol, arrays)
    tail_loss = dispersed_loss(arrays["emb"][head_size:], per_identity, interweight)
    total = loss_by_loops(arrays, head_size, per_identity, interweight, beta, head_size / 2)
    assert outputs["tail_loss"].shape == outputs["loss"].shape == (1,)
    assert outputs["tail_loss"][0] == pytest.approx(tail_loss, rel=1e-5, abs=1e-7)
    assert outputs["loss"][0] + outputs["tail_loss"][0] == pytest.approx(total, rel=1e-5)
    for name, gradient in gradients.items():
        expected = slopes(lambda array, name=name: loss_by_loops(
            dict(arrays, **{name: array}), head_size, per_identity, interweight, beta,
            head_size / 2), arrays[name])
        assert_close(gradient, expected, 2e-5)
        if name == "emb" and interweight and identities > 1:
            assert_close(gradient[head_size:], expected[head_size:], 2e-5)


def test_shapes_and_values_of_the_outputs():
    arrays = inputs(6, 8)
    outputs, _ = run(head(head_size=6, tail_identities=4, images_per_identity=2, interweight=3.0,
                          beta=0.9, normalizer=3), arrays)
    np.testing.assert_array_equal(outputs["embedding"], arrays["emb"])
    np.testing.assert_array_equal(outputs["head_label"], arrays["label"][:6])
    np.testing.assert_array_equal(outputs["tail_label"], arrays["label"][6:])
    assert outputs["prediction"].shape == (6,)
    centers = [unit(unit(arrays["emb"][row]) + unit(arrays["emb"][row + 1]))
               for row in range(6, 14, 2)]
    squares = np.array([[0 if a is b else (a * b).sum() ** 2 for b in centers] for a in centers])
    assert_close(outputs["tail_cosines"], squares, 1e-5)
    assert outputs["tail_loss"][0] == pytest.approx(3.0 * squares.sum() / 16, rel=1e-5)


def test_length_of_tail_embeddings_does_not_matter():
    arrays = inputs(4, 6)
    longer = dict(arrays, emb=arrays["emb"].copy())
    longer["emb"][4:] *= np.arange(1, 7)[:, None]
    options = dict(head_size=4, tail_identities=3, images_per_identity=2, interweight=1.0,
                   beta=0.9, normalizer=2)
    assert_close(run(head(**options), longer)[0]["tail_loss"],
                 run(head(**options), arrays)[0]["tail_loss"], 1e-5)


def test_orthogonal_centers_are_the_minimum():
    arrays = inputs(2, 4)
    arrays["emb"][2:] = np.eye(SIZE)[:4] * 3
    outputs, gradients = run(head(head_size=2, tail_identities=4, images_per_identity=1,
                                  interweight=10.0, beta=0.9, normalizer=1), arrays)
    assert outputs["tail_loss"][0] == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(gradients["emb"][2:], 0, atol=1e-6)


def test_a_step_down_the_gradient_disperses_the_centers():
    arrays = inputs(2, 8)
    options = dict(head_size=2, tail_identities=4, images_per_identity=2, interweight=1.0,
                   beta=0.9, normalizer=1)
    outputs, gradients = run(head(**options), arrays)
    arrays["emb"][2:] -= 0.5 * gradients["emb"][2:]
    assert run(head(**options), arrays)[0]["tail_loss"][0] < outputs["tail_loss"][0]


def test_finite_at_equal_and_at_cancelling_embeddings():
    arrays = inputs(2, 6)
    arrays["emb"][2:6] = arrays["emb"][2]  # two identities in one place
    arrays["emb"][7] = -arrays["emb"][6]  # a centre of zeros
    outputs, gradients = run(head(head_size=2, tail_identities=3, images_per_identity=2,
                                  interweight=5.0, beta=0.9, normalizer=1), arrays)
    for value in [*outputs.values(), *gradients.values()]:
        assert np.isfinite(value).all()


def test_threshold_gates_the_head_only():
    arrays = inputs(6, 6)
    options = dict(head_size=6, tail_identities=2, images_per_identity=3, interweight=1.0,
                   beta=0.9, normalizer=3)
    outputs, gradients = run(head(threshold=1.0, **options), arrays)
    assert outputs["loss"][0] == 0
    np.testing.assert_array_equal(gradients["emb"][:6], 0)
    np.testing.assert_array_equal(gradients["fc7_weight"], 0)
    _, ungated = run(head(**options), arrays)
    np.testing.assert_array_equal(gradients["emb"][6:], ungated["emb"][6:])
    assert np.abs(ungated["emb"][6:]).max() > 0


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("head_size, identities, per_identity", [(3, 2, 2), (2, 3, 1), (4, 2, 3)])
def test_update_is_the_average_over_devices(devices, head_size, identities, per_identity):
    """A batch is [head of device 0, tail of device 0, head of device 1, tail of device 1]."""
    options = dict(head_size=head_size, tail_identities=identities,
                   images_per_identity=per_identity, interweight=5.0, beta=0.8,
                   normalizer=devices * head_size // 2)
    rows = head_size + identities * per_identity
    random = np.random.RandomState(1)
    data = random.randn(devices * rows, INPUT)
    label = random.randint(0, CLASSES, devices * rows)
    start = {"embed_weight": random.randn(SIZE, INPUT), "fc7_weight": random.randn(CLASSES, SIZE)}

    embedding = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=SIZE, no_bias=True,
                                      name="embed")
    module = mx.mod.Module(head(embedding, **options), data_names=["data"], label_names=["label"],
                           context=[mx.cpu(i) for i in range(devices)])
    module.bind([("data", data.shape)], [("label", label.shape)])
    module.set_params({name: mx.nd.array(value) for name, value in start.items()}, {})
    module.init_optimizer(optimizer=mx.optimizer.SGD(
        learning_rate=0.5, momentum=0.0, rescale_grad=1.0 / devices))
    module.forward_backward(mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)]))
    module.update()
    updated = module.get_params()[0]

    def average(**weights):
        total = 0.0
        for first in range(0, len(data), rows):
            part = slice(first, first + rows)
            total += loss_by_loops(
                {"emb": data[part] @ weights["embed_weight"].T,
                 "fc7_weight": weights["fc7_weight"], "label": label[part]},
                head_size, per_identity, 5.0, 0.8, options["normalizer"])
        return total / devices

    for name, value in start.items():
        gradient = slopes(lambda array, name=name: average(**dict(start, **{name: array})), value)
        assert_close((value - updated[name].asnumpy()) / 0.5, gradient, 2e-5)


def test_no_weight_for_tail_identities_and_no_one_hot():
    symbol = head(head_size=6, tail_identities=4, images_per_identity=3, interweight=1.0,
                  beta=0.9, normalizer=3)
    shapes, _, _ = symbol.infer_shape(emb=(18, SIZE), label=(18,))
    assert dict(zip(symbol.list_arguments(), shapes)) == {
        "emb": (18, SIZE), "label": (18,), "fc7_weight": (CLASSES, SIZE)}
    assert "one_hot" not in symbol.tojson()


@pytest.mark.parametrize("numbers", [dict(beta=2.0), dict(beta=0.9, threshold=-1)])
def test_refused(numbers):
    with pytest.raises(InputError, match="must lie in"):
        head(head_size=6, tail_identities=4, images_per_identity=3, interweight=1.0, normalizer=3,
             **numbers)


@pytest.mark.parametrize("composed, on_cpu, expected", [
    (False, True, True), (False, False, False), (True, True, False)])
def test_which_operator_normalises_the_weight(composed, on_cpu, expected):
    symbol = head(head_size=2, tail_identities=2, images_per_identity=2, interweight=1.0, beta=0.9,
                  normalizer=1, composed=composed, on_cpu=on_cpu)
    assert ("unit_rows" in symbol.tojson()) == (expected and bool(operators.COMPILED))
