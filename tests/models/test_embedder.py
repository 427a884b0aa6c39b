import threading
import time

import cv2
import mxnet as mx
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import unequal
from helpers.models import SIDE, by_hand, initialised, png
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError
from unequal.models import embedder
from unequal.models.embedder import Embedder, LoosePictures, PictureList
from unequal.symbols import networks


@pytest.mark.parametrize("flip", (True, False))
@pytest.mark.parametrize("batch_size", (4, 64))
def test_features_of_arrays_bytes_and_files(network, faces, tmp_path, flip, batch_size):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=batch_size, flip=flip)
    expected = by_hand(network, faces, flip)
    paths = []
    for number, picture in enumerate(faces):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(png(picture))
    for source in (faces, np.array(faces), [png(picture) for picture in faces], paths,
                   [str(path) for path in paths]):
        result = model.transform(source)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, atol=2e-5)


def test_features_of_a_record_set(network, faces, tmp_path):
    with RecordWriter(str(tmp_path), (SIDE, SIDE)) as writer:
        for number, picture in enumerate(faces):
            writer.add(number // 4, png(picture))
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    np.testing.assert_allclose(model.transform(RecordSet(str(tmp_path))),
                               by_hand(network, faces, True), atol=2e-5)


def test_no_pictures(network):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    assert model.transform([]).shape == (0, 24)


def test_embed_keeps_length_and_order(network, faces):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    source = PictureList([png(picture) for picture in faces], "list")
    keys = np.array([5, 0, 5])
    plain, flipped = model.embed(source, keys, flip=True)
    assert plain.shape == flipped.shape == (3, 24)
    np.testing.assert_array_equal(plain[0], plain[2])
    unit = plain + flipped
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, by_hand(network, faces, True)[keys], atol=2e-5)
    assert model.embed(source, keys)[1] is None


def test_stream_of_many_batches_while_the_caller_works(network, faces):
    """No batch's output is written over by the next one's, no buffer filled while it is read."""
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    keys = np.random.RandomState(0).randint(len(faces), size=4 * 9 + 1)
    expected = [by_hand(network, faces, flip=False), by_hand(network, faces, flip=True)]
    done = 0
    for start, labels, plain, flipped in model.stream(PictureList(faces, "faces"), keys, flip=True):
        time.sleep(0.01)  # the next batches are decoded and embedded meanwhile
        assert start == done and len(labels) == len(plain) == len(flipped) == min(
            4, len(keys) - start)
        for found, wanted in zip((plain, plain + flipped), expected):
            unit = found / np.linalg.norm(found, axis=1, keepdims=True)
            np.testing.assert_allclose(unit, wanted[keys[start:start + len(unit)]], atol=2e-5)
        done += len(plain)
    assert done == len(keys)


def test_new_weights_are_used(network, faces):
    """MXNet keeps fused weights when an inference module gets new ones (see load_weights)."""
    symbol = network[0]
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4, flip=False)
    model.transform(faces[:2])
    other = initialised(symbol, (SIDE, SIDE), seed=1)
    model.load_weights(*other)
    np.testing.assert_allclose(model.transform(faces),
                               by_hand((symbol,) + tuple(other), faces, False), atol=2e-5)


def test_threads_share_an_embedder(network, faces):
    """A forward pass of one thread used to be answered with another one's pictures."""
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    expected = [model.transform(faces[place:place + 3]) for place in range(4)]
    wrong = []

    def work(place):
        for _ in range(12):
            if not np.allclose(model.transform(faces[place:place + 3]), expected[place], atol=2e-5):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_dropped_stream_waits_for_no_thread(network, faces):
    """Python may drop it inside a thread that decoding threads wait for."""
    class Slow(PictureList):
        go, begun = threading.Event(), threading.Event()
        decoding = None  # the thread

        def image(self, key):
            if key == 8:  # of the third batch
                self.decoding = threading.current_thread()
                self.begun.set()
                self.go.wait(20)
            return super().image(key)

    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    source = Slow([png(face) for face in faces], "faces")
    keys = np.arange(12)
    stream = model.stream(source, keys, threads=1)
    next(stream)
    assert source.begun.wait(20)
    del stream
    assert source.decoding.is_alive()  # the picture is still being waited for
    source.go.set()
    source.decoding.join(20)
    assert not source.decoding.is_alive()


def test_a_stream_goes_on_with_its_weights(network, faces):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    expected = model.embed(PictureList(faces, "faces"))[0]
    stream = model.stream(PictureList(faces, "faces"))
    rows = [next(stream)[2]]
    model.load_weights(*initialised(network[0], (SIDE, SIDE), seed=1))
    rows += [plain for _, _, plain, _ in stream]
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)


@pytest.mark.parametrize("none", ([], (), iter([]), np.empty((0, SIDE, SIDE, 3), np.uint8),
                                  np.array([])))
def test_no_picture_of_any_kind(network, none):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    assert model.transform(none).shape == (0, 24)
    assert model.embed(PictureList([], "none"), [])[0].shape == (0, 24)


def test_a_generator_is_a_list(network, faces):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    np.testing.assert_allclose(model.transform(face for face in faces), model.transform(faces),
                               atol=1e-6)


@pytest.mark.parametrize("wrong, said", (
    (None, "X is a NoneType"), (3, "X is a int"), ({"a.jpg"}, "X is a set"),
    ({"a.jpg": 1}, "X is a dict"), (np.zeros((SIDE, SIDE, 3), np.uint8), "X has shape"),
    ([None], "picture 0 is a NoneType")))
def test_what_is_no_list_of_pictures(network, wrong, said):
    with pytest.raises(InputError, match=said):
        Embedder(*network, image_size=(SIDE, SIDE), batch_size=4).transform(wrong)


def test_set_params_is_scikit_learn_s(network):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    assert model.set_params(**model.get_params()) is model
    with pytest.raises(ValueError, match="no parameter flip"):
        model.set_params(flip=False)


def test_head_is_cut_off(network, faces):
    symbol, arg_params, aux_params = network
    head = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(symbol, num_hidden=7, name="fc7"),
                                name="softmax")
    more = dict(arg_params, fc7_weight=mx.nd.ones((7, 24)), fc7_bias=mx.nd.zeros(7))
    model = Embedder(head, more, aux_params, (SIDE, SIDE), batch_size=4)
    assert model.embedding_size == 24
    np.testing.assert_allclose(model.transform(faces), by_hand(network, faces, True), atol=2e-5)


def test_scaled_pictures(faces):
    large = cv2.resize(faces[0], (SIDE * 3, SIDE * 2), interpolation=cv2.INTER_NEAREST)
    _, pixels = LoosePictures([large], (SIDE, SIDE)).image(0)
    np.testing.assert_array_equal(pixels, faces[0])  # averages of equal pixels
    _, pixels = LoosePictures([faces[0][:8, :8]], (SIDE, SIDE)).image(0)
    assert pixels.shape == (SIDE, SIDE, 3)


def test_input_size_from_weights(network):
    assert embedder.input_size(network[0], network[1]) == (SIDE, SIDE)
    symbol = networks.get_symbol("n8", 24)
    arg_params, _ = initialised(symbol, (112, 112))
    assert embedder.input_size(symbol, arg_params) == (112, 112)
    arg_params, _ = initialised(symbol, (32, 64))
    with pytest.raises(InputError, match="say the image_size"):
        embedder.input_size(symbol, arg_params)


def test_from_checkpoint(checkpoint, network, faces):
    model = unequal.Embedder.from_checkpoint(checkpoint, batch_size=4)
    assert model.image_size == (SIDE, SIDE)
    np.testing.assert_allclose(model.transform(faces), by_hand(network, faces, True), atol=2e-5)


def test_pipeline(network, faces):
    """A classifier behind an Embedder, fitted and cloned as scikit-learn does."""
    noisy = np.array(faces[:4] * 6) // 2 + np.random.RandomState(1).randint(
        0, 60, (24, SIDE, SIDE, 3)).astype(np.uint8)
    people = np.tile(np.arange(4), 6)
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    pipeline = clone(make_pipeline(model, LogisticRegression(C=100)))
    assert pipeline[0] is model
    pipeline.fit(noisy[:16], people[:16])
    assert pipeline.score(noisy[16:], people[16:]) == 1
    assert model.fit_transform(faces[:2]).shape == (2, 24)
    assert "Embedder" in repr(pipeline)


def test_errors_name_the_picture(network, faces, tmp_path):
    model = Embedder(*network, image_size=(SIDE, SIDE), batch_size=4)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match="broken.jpg: not a picture"):
        model.transform([broken])
    with pytest.raises(InputError, match="picture 1: not a picture"):
        model.transform([png(faces[0]), b"no picture"])
    with pytest.raises(OSError) as missing:
        model.transform([str(tmp_path / "missing.jpg")])
    assert missing.value.filename.endswith("missing.jpg")
    with pytest.raises(InputError, match="lfw.bin: record 1: not a picture"):
        model.embed(PictureList([png(faces[0]), b"no picture"], "lfw.bin"))
    with pytest.raises(InputError, match="expected a list of pictures"):
        model.transform("one.jpg")


def test_symbol_without_embedding():
    symbol = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="other")
    with pytest.raises(InputError, match="no output fc1"):
        Embedder(symbol, {}, {}, (SIDE, SIDE))


def test_weights_of_another_size(network):
    with pytest.raises(InputError, match="do not fit the network at 64x64 pixels"):
        Embedder(*network, image_size=(64, 64))
