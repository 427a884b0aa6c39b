"""What TensorBoard gets: read back from the files."""
import logging
import struct
import sys
from types import SimpleNamespace

import cv2
import mxnet as mx
import numpy as np
import pytest

from helpers.models import initialised
from helpers.pictures import encoded, smooth
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import ArgumentError
from unequal.models import checkpoints
from unequal.symbols import networks
from unequal.training import board

SIDE, PEOPLE, PICTURES = 16, 6, 8
SWAPPED = (8, 16)  # keys: the last pictures of people 0 and 1 show the other


def read(directory):
    """``(step, tag, kind, value)`` of everything in a directory's event files."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack("<Q", data[place:place + 8])
            event = event_pb2.Event.FromString(data[place + 12:place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                yield event.step, value.tag, value.WhichOneof("value"), value


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A record set with two exchanged pictures, and a checkpoint of random weights."""
    root, random = tmp_path_factory.mktemp("board"), np.random.RandomState(0)
    with RecordWriter(str(root / "set"), (SIDE, SIDE)) as writer:
        for person in range(PEOPLE):
            for number in range(PICTURES):
                shown = 1 - person if person < 2 and number == PICTURES - 1 else person
                writer.add(person, encoded(np.clip(
                    smooth(SIDE, SIDE, shown) + random.randint(-9, 10, (SIDE, SIDE, 3)),
                    0, 255).astype(np.uint8)))
    symbol = networks.get_symbol("n8", 16)
    checkpoints.save(str(root / "model"), 2, symbol, *initialised(symbol, (SIDE, SIDE), 0))
    return root


@pytest.fixture
def run(people):
    with RecordSet(str(people / "set")) as records:
        yield SimpleNamespace(records=records, devices=[mx.cpu()],
                              config=SimpleNamespace(prefix=str(people / "model")))


def end(run, directory, step=7):
    observer = board.TensorBoard(str(directory), run)
    observer.notify("start", stage="step 2", name="softmax", options={}, devices=[])
    observer.notify("train", step=step, epoch=0, speed=9.5, lr=0.25, metrics={"acc": 0.5})
    observer.notify("end", step=step, reason="", best_epoch=2, best_mean=0.5)
    observer.close()


def test_suspects_and_the_projector_at_the_end(run, tmp_path):
    pytest.importorskip("tensorboardX")
    end(run, tmp_path)
    found = {(tag, kind): value for step, tag, kind, value in read(tmp_path) if step == 7}
    assert found["train/lr", "simple_value"].simple_value == 0.25
    image = found["suspects", "image"].image
    assert (image.height, image.width) == (SIDE + 2, board.ABREAST * (3 * SIDE + 2))
    sheet = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), 1)[..., ::-1]
    text = found["suspects/text_summary", "tensor"].tensor.string_val[0].decode()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:3] == "| 1"
            or line[:3] == "| 2"]
    assert {int(row[1]) for row in rows} == set(SWAPPED)
    assert {(row[2], row[3], row[4]) for row in rows} == {("0", "flip", "1"), ("1", "flip", "0")}
    data = run.records.image(int(rows[0][1]))[1]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1]
    np.testing.assert_array_equal(sheet[:SIDE, :SIDE], pixels)
    assert abs(sheet[:SIDE, 2 * SIDE:3 * SIDE].astype(int) - pixels).mean() < 15  # as suggested
    assert abs(sheet[:SIDE, SIDE:2 * SIDE].astype(int) - pixels).mean() > 25  # unlike its label

    folder = tmp_path / "00007" / "embedding"
    vectors = np.loadtxt(str(folder / "tensors.tsv"))
    metadata = [line.split("\t") for line in (folder / "metadata.tsv").read_text().splitlines()]
    assert vectors.shape == (PEOPLE * PICTURES, 16)
    np.testing.assert_allclose((vectors ** 2).sum(axis=1), 1, rtol=1e-4)
    assert metadata[0] == ["label", "image", "suspected"]
    assert [int(row[1]) for row in metadata[1:] if row[2] == "flip"] == list(SWAPPED)
    assert cv2.imread(str(folder / "sprite.png")).shape[0] == 7 * board.THUMBNAIL  # of 49 places


def test_an_end_at_the_same_batch_replaces_the_embedding(run, tmp_path):
    pytest.importorskip("tensorboardX")
    end(run, tmp_path)
    end(run, tmp_path)
    assert (tmp_path / "projector_config.pbtxt").read_text().count("embeddings {") == 1
    end(run, tmp_path, 9)
    assert (tmp_path / "projector_config.pbtxt").read_text().count("embeddings {") == 2


def test_a_model_that_cannot_be_read_is_said_and_ends_nothing(run, tmp_path, caplog):
    pytest.importorskip("tensorboardX")
    run.config.prefix += "_none"
    with caplog.at_level(logging.WARNING):
        end(run, tmp_path)
    assert "no pictures for TensorBoard: " in caplog.text and "model_none" in caplog.text
    assert {tag for _, tag, _, _ in read(tmp_path)} >= {"train/acc"}


def test_whole_classes_up_to_a_bound(run, monkeypatch):
    np.testing.assert_array_equal(board.chosen_keys(run.records), run.records.image_keys)
    monkeypatch.setattr(board, "IMAGES", 3 * PICTURES)
    keys = board.chosen_keys(run.records)
    assert sorted({(key - 1) // PICTURES for key in keys}) == [0, 2, 5] and len(keys) == 24
    monkeypatch.setattr(board, "OF_A_CLASS", 3)
    assert board.chosen_keys(run.records)[:4].tolist() == [1, 2, 3, 9]
    monkeypatch.setattr(board, "IMAGES", 5)  # two classes at least, but no more pictures
    assert board.chosen_keys(run.records).tolist() == [1, 2, 3, 41, 42]


def test_without_tensorboardx(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ArgumentError, match=r"tensorboardX; install the extra \[tensorboard\]"):
        board.TensorBoard("x", run)
