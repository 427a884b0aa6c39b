import mxnet as mx
import numpy as np
import pytest

from helpers.loops import (
    assert_close,
    cases,
    cross_entropy,
    margin_logits,
    recorded,
    robust_loss,
    run,
    slopes,
)
from unequal.errors import InputError
from unequal.symbols import heads, operators
from unequal.symbols.heads import softmax_head
from unequal.symbols.margins import Margin

BATCH, CLASSES, SIZE, INPUT = 8, 7, 5, 3


def inputs(seed=0):
    random = np.random.RandomState(seed)
    return {"emb": random.randn(BATCH, SIZE).astype(np.float32),
            "fc7_weight": random.randn(CLASSES, SIZE).astype(np.float32),
            "label": random.randint(0, CLASSES, BATCH).astype(np.float32)}


def head(margin=Margin(), **options):
    return heads.nra_head(mx.sym.Variable("emb"), mx.sym.Variable("label"), CLASSES, SIZE, margin,
                        **options)


@pytest.mark.parametrize("name", cases("nr_"))
def test_recorded(name):
    settings, arrays = recorded(name)
    margin = Margin(**{key: settings[key] for key in Margin._fields if key in settings})
    symbol = heads.nra_head(mx.sym.Variable("emb"), mx.sym.Variable("label"),
                          settings["num_classes"], settings["emb_size"], margin,
                          beta=settings["noise_beta"], normalizer=2 * settings["batch"])
    logits = mx.sym.BlockGrad(symbol.get_internals()["logits_output"], name="margin_logits")
    outputs, gradients = run(mx.sym.Group([symbol, logits]), arrays)
    assert_close(outputs["embedding"], arrays["out0"], 1e-4)
    assert_close(outputs["margin_logits"], arrays["out1"], 1e-4)
    assert_close(outputs["loss"], arrays["out2"], 1e-4)
    assert_close(gradients["emb"], arrays["grad_emb"], 1e-4)
    assert_close(gradients["fc7_weight"], arrays["grad_fc7_weight"], 1e-4)


def test_names_of_the_outputs():
    symbol = head(beta=0.9, normalizer=2)
    assert symbol.list_outputs() == [name + "_output" if name[0] != "n" else name for name in (
        "embedding", "noise_robust_probability", "loss", "prediction", "label_log_probability",
        "largest_log_probability")]
    assert symbol.list_arguments() == ["emb", "fc7_weight", "label"]


@pytest.mark.parametrize("margin", [
    Margin(margin_s=8.0), Margin(loss_type=2, margin_s=8.0, margin_m=0.35),
    Margin(loss_type=5, margin_s=8.0, margin_a=0.9, margin_m=0.4, margin_b=0.15)])
@pytest.mark.parametrize("beta, threshold", [(0.9, 0.0), (0.3, 0.0), (0.6, 0.7)])
def test_whole_head_by_loops_and_by_differences(margin, beta, threshold):
    arrays = inputs()

    def loss(**changed):
        values = dict(arrays, **changed)
        return robust_loss(
            margin_logits(values["emb"], values["fc7_weight"], values["label"], margin),
            values["label"], beta, 2 * BATCH, threshold)

    outputs, gradients = run(head(margin, beta=beta, normalizer=2 * BATCH, threshold=threshold),
                             arrays)
    logits = margin_logits(arrays["emb"], arrays["fc7_weight"], arrays["label"], margin)
    prediction = logits.argmax(axis=1)
    label_log, largest_log = (-np.array([cross_entropy(*pair) for pair in zip(logits, target)])
                              for target in (arrays["label"], prediction))
    if threshold:
        assert 0 < (np.exp(largest_log) > threshold).sum() < BATCH
    assert outputs["prediction"].tolist() == prediction.tolist()
    assert_close(outputs["label_log_probability"], label_log, 1e-5)
    assert_close(outputs["largest_log_probability"], largest_log, 1e-5)
    assert outputs["loss"][0] == pytest.approx(loss(), rel=1e-5)
    for name, gradient in gradients.items():
        assert_close(gradient, slopes(lambda array, name=name: loss(**{name: array}),
                                      arrays[name]), 1e-5)


@pytest.mark.parametrize("loss_type", [0, 1, 2, 4, 5])
def test_normalised_by_either_operator(loss_type):
    arrays = dict(inputs(), fc7_bias=np.zeros(CLASSES, np.float32),
                  sphere_beta=np.ones(1, np.float32))
    margin = Margin(loss_type, 8.0, 0.4)
    found = [run(head(margin, beta=0.9, normalizer=2, on_cpu=on_cpu), arrays)
             for on_cpu in (True, False)]
    for ours, theirs in zip(*found):
        for name, value in theirs.items():
            assert_close(ours[name], value, 1e-5)


def test_operators_of_a_symbol():
    """Plain MXNet can load the composed one; only the one for CPUs has unit_rows."""
    given = dict(beta=0.9, normalizer=2)
    assert ("unit_rows" in head(**given).tojson()) == bool(operators.COMPILED)
    assert "unit_rows" not in head(on_cpu=False, **given).tojson()
    assert "Custom" not in head(composed=True, **given).tojson()


def test_trusting_every_label_is_half_the_softmax_of_step_2():
    """The reference's scale: 1/2 of the mean loss's gradient with beta 1 on one device."""
    arrays = inputs()
    _, robust = run(head(beta=1.0, normalizer=2 * BATCH), arrays)
    _, mean = run(head(beta=1.0, normalizer=BATCH), arrays)
    _, softmax = run(softmax_head(mx.sym.Variable("emb"), mx.sym.Variable("label"), CLASSES, SIZE),
                     arrays)
    for name in ("emb", "fc7_weight"):
        assert_close(robust[name], softmax[name] / 2, 1e-5)
        assert_close(mean[name], softmax[name], 1e-5)


@pytest.mark.parametrize("cosine", [1, -1])
def test_finite_at_parallel_embeddings(cosine):
    arrays = inputs()
    arrays["emb"] = cosine * 3 * arrays["fc7_weight"][arrays["label"].astype(int)]
    outputs, gradients = run(head(beta=0.5, normalizer=2 * BATCH), arrays)
    for value in [*outputs.values(), *gradients.values()]:
        assert np.isfinite(value).all()


def trained(devices, normalizer, data, label, start, steps=3, beta=0.7):
    """Weights after some steps of plain SGD of an embedding matrix and the head."""
    embedding = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=SIZE, no_bias=True,
                                      name="embed")
    symbol = heads.nra_head(embedding, mx.sym.Variable("label"), CLASSES, SIZE,
                          Margin(margin_s=8.0), beta=beta, normalizer=normalizer)
    module = mx.mod.Module(symbol, data_names=["data"], label_names=["label"],
                           context=[mx.cpu(i) for i in range(devices)])
    module.bind([("data", data.shape)], [("label", label.shape)])
    module.set_params({name: mx.nd.array(value) for name, value in start.items()}, {})
    module.init_optimizer(optimizer=mx.optimizer.SGD(
        learning_rate=0.5, momentum=0.9, wd=0.01, rescale_grad=1.0 / devices))
    batch = mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])
    for _ in range(steps):
        module.forward_backward(batch)
        module.update()
    return {name: value.asnumpy() for name, value in module.get_params()[0].items()}


def training_inputs():
    random = np.random.RandomState(3)
    return (random.randn(BATCH, INPUT), random.randint(0, CLASSES, BATCH),
            {"embed_weight": random.randn(SIZE, INPUT), "fc7_weight": random.randn(CLASSES, SIZE)})


def test_two_devices_make_the_same_updates_as_one():
    data, label, start = training_inputs()
    one = trained(1, BATCH, data, label, start)
    two = trained(2, BATCH // 2, data, label, start)  # the mean over a device's batch
    for name in start:
        assert np.abs(one[name] - start[name]).max() > 0.1  # it did train
        assert_close(two[name], one[name], 1e-5)


def test_scale_of_the_reference_shrinks_with_the_devices():
    """2 * total batch and rescale_grad 1/d: an update at d devices is 1/(2d) of the mean loss's."""
    data, label, start = training_inputs()
    twice = 2 * BATCH
    two = trained(2, twice, data, label, start, steps=1)
    same = trained(1, 2 * twice, data, label, start, steps=1)
    mean = trained(1, BATCH, data, label, start, steps=1)
    for name in start:
        assert_close(two[name], same[name], 1e-6)
        decayed = start[name] * (1 - 0.5 * 0.01)  # by weight decay alone
        assert_close(two[name] - decayed, (mean[name] - decayed) / 4, 1e-4)


@pytest.mark.parametrize("options, text", [
    (dict(beta=1.5), "noise_beta 1.5 must lie in [0, 1]."),
    (dict(beta=-0.1), "noise_beta -0.1 must lie in [0, 1]."),
    (dict(beta=float("nan")), "noise_beta nan must lie in [0, 1]."),
    (dict(beta=0.5, threshold=7), "gate 7 must lie in [0, 1]."),
    (dict(beta=0.5, threshold=-1e-3), "gate -0.001 must lie in [0, 1]."),
])
def test_refused(options, text):
    with pytest.raises(InputError) as error:
        head(normalizer=2, **options)
    assert str(error.value) == text


@pytest.mark.parametrize("loss_type", [0, 2, 4, 5])
def test_without_one_hot(loss_type):
    margin = Margin(loss_type=loss_type)
    assert "one_hot" not in head(margin, beta=0.9, normalizer=2).tojson()
