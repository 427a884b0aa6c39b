import cv2
import mxnet as mx
import numpy as np
import pytest

from unequal.commands.cli import main
from unequal.data.records import RecordSet, RecordWriter
from unequal.models import centers, checkpoints, noise_scan
from unequal.symbols import heads, networks
from unequal.symbols.margins import Margin

SIZE, CENTERS, CLASSES, SIDE = 16, 3, 4, 16


def test_nearest_by_loops():
    random = np.random.RandomState(0)
    embeddings, weight = random.randn(9, 5), random.randn(4, 3, 5)
    labels = random.randint(0, 4, 9)
    expected = []
    for x, label in zip(embeddings, labels):
        cosines = [(x * w).sum() / np.sqrt((w * w).sum()) for w in weight[label]]
        expected.append(max(range(3), key=lambda k, cosines=cosines: cosines[k]))
    assert centers.nearest(embeddings, labels, weight).tolist() == expected
    assert len(set(expected)) == 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A set of pictures, and a checkpoint with three centres a class (its first weights)."""
    directory = tmp_path_factory.mktemp("centers")
    random = np.random.RandomState(0)
    label = mx.sym.Variable("softmax_label")
    symbol = heads.nra_head(networks.get_symbol("n8", SIZE), label, CLASSES, SIZE,
                            Margin(sub_centers=CENTERS), beta=0.9, normalizer=8, composed=True)
    module = mx.mod.Module(symbol, label_names=["softmax_label"])
    module.bind([("data", (2, 3, SIDE, SIDE))], [("softmax_label", (2,))])
    mx.random.seed(0)
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2))
    checkpoints.save(str(directory / "model"), 1, symbol, *module.get_params())
    write_set(str(directory / "set"), random)
    return directory


def write_set(path, random, classes=CLASSES):
    with RecordWriter(path, (SIDE, SIDE)) as writer:
        for number in range(5 * classes):
            picture = random.randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
            writer.add(number // 5, cv2.imencode(".png", picture)[1].tobytes())


def test_the_dominant_centre_stays(trained, capsys):
    model = str(trained / "model") + ",1"
    assert main(["drop-centers", model, str(trained / "dropped"), "--data-dir",
                 str(trained / "set"), "--devices", "cpu"]) == 0
    assert "4 classes, one centre each instead of 3" in capsys.readouterr().out
    _, before, _ = checkpoints.load(str(trained / "model"), 1)
    symbol, after, _ = checkpoints.load(str(trained / "dropped"), 0)
    assert symbol.list_outputs() == ["fc1_output"]
    with RecordSet(str(trained / "set")) as records:
        dropped = centers.drop(records, model)
    assert dropped.counts.sum() == 20 and (dropped.counts.sum(axis=1) == 5).all()
    rows = before["fc7_weight"].asnumpy().reshape(CLASSES, CENTERS, SIZE)
    for label, counts in enumerate(dropped.counts):
        np.testing.assert_array_equal(after["fc7_weight"].asnumpy()[label],
                                      rows[label, int(np.argmax(counts))])


def test_noise_scores_of_three_centres_a_class(trained, tmp_path):
    """The probability of a class is that of its nearest centre."""
    with RecordSet(str(trained / "set")) as records:
        columns = noise_scan.score_records(records, str(trained / "model") + ",1",
                                           Margin(margin_m=0.0), str(tmp_path / "part"))
        _, params, states = checkpoints.load(str(trained / "model"), 1)
        embedder = noise_scan.Embedder(networks.get_symbol("n8", SIZE), params, states,
                                       records.image_size, [mx.cpu()], 8)
        embeddings, _ = embedder.embed(records)
    weight = params["fc7_weight"].asnumpy().astype(np.float64)
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = 64 * (unit @ weight.T).reshape(-1, CLASSES, CENTERS).max(axis=2)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(columns["prediction"], expected.argmax(axis=1))
    np.testing.assert_allclose(columns["label_probability"],
                               expected[range(20), columns["label"]], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("classes, text", [(3, "has 4 classes, but"), (4, None)])
def test_another_set_or_a_plain_model_is_refused(classes, text, trained, tmp_path, capsys):
    write_set(str(tmp_path / "set"), np.random.RandomState(1), classes)
    model = str(trained / "model") + ",1"
    if text is None:
        main(["drop-centers", model, str(tmp_path / "dropped"), "--data-dir",
              str(trained / "set"), "--devices", "cpu"])
        model, text = str(tmp_path / "dropped") + ",0", "this model has one centre a class"
    capsys.readouterr()
    assert main(["drop-centers", model, str(tmp_path / "out"), "--data-dir", str(tmp_path / "set"),
                 "--devices", "cpu"]) == 1
    assert text in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
