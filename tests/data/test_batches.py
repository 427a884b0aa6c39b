import logging

import cv2
import numpy as np
import pytest

from unequal.data import augmentation as aug
from unequal.data.batches import FaceIter
from unequal.data.loading import BatchBuffers, PictureLoader
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError


def encode(value, size=(12, 10)):
    pixels = np.random.RandomState(value).randint(0, 256, size + (3,)).astype(np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(pixels, (5, 5), 2))[1].tobytes()


@pytest.fixture
def record_set(tmp_path):
    """10 identities of 3 pictures of 12x10 pixels; picture k is ``encode(k)``, k from 1."""
    with RecordWriter(str(tmp_path), (12, 10)) as writer:
        for label in range(10):
            for _ in range(3):
                writer.add(label, encode(writer._key))
    with RecordSet(str(tmp_path)) as records:
        yield records


def collect(iterator):
    """All of an epoch: labels, and pictures copied out of the recycled batches."""
    labels, pictures = [], []
    for batch in iterator:
        pictures.extend(batch.data[0].asnumpy())
        labels.extend(batch.label[0].asnumpy().astype(int))
    return np.array(labels), np.array(pictures)


def rgb(key):
    pixels = cv2.imdecode(np.frombuffer(encode(key), np.uint8), cv2.IMREAD_COLOR)
    return pixels[:, :, ::-1].transpose(2, 0, 1)


def test_pictures_are_rgb_planes_in_order(record_set):
    labels, pictures = collect(FaceIter(record_set, 4, shuffle=False))
    assert labels.tolist() == [i // 3 for i in range(28)]  # an incomplete last batch is dropped
    for i, planes in enumerate(pictures):
        np.testing.assert_array_equal(planes, rgb(i + 1))


def test_provides(record_set):
    iterator = FaceIter(record_set, 4)
    assert [tuple(item) for item in iterator.provide_data] == [("data", (4, 3, 12, 10))]
    assert [tuple(item) for item in iterator.provide_label] == [("softmax_label", (4,))]
    assert iterator.batches == 7 and iterator.batch_size == 4


def test_every_epoch_is_a_new_permutation(record_set):
    iterator = FaceIter(record_set, 5, seed=3)
    first = collect(iterator)
    iterator.reset()
    second = collect(iterator)
    assert sorted(first[0]) == sorted(second[0]) == sorted(list(range(10)) * 3)
    assert first[0].tolist() != second[0].tolist()


def test_the_seed_decides_whatever_the_threads(record_set):
    def epoch(seed, threads):
        return collect(FaceIter(record_set, 5, aug.COLOR, seed=seed, threads=threads))

    labels, pictures = epoch(1, 1)
    for threads in (2, 4):
        again = epoch(1, threads)
        np.testing.assert_array_equal(labels, again[0])
        np.testing.assert_array_equal(pictures, again[1])
    assert epoch(2, 1)[0].tolist() != labels.tolist()


def test_mirror(record_set):
    _, pictures = collect(FaceIter(record_set, 30, aug.Augmentation(mirror=1.0), shuffle=False))
    np.testing.assert_array_equal(pictures[7], rgb(8)[:, :, ::-1])
    _, pictures = collect(FaceIter(record_set, 30, aug.Augmentation(mirror=0.5), shuffle=False))
    mirrored = [(planes == rgb(i + 1)[:, :, ::-1]).all() for i, planes in enumerate(pictures)]
    plain = [(planes == rgb(i + 1)).all() for i, planes in enumerate(pictures)]
    assert 5 < sum(mirrored) < 25 and sum(mirrored) + sum(plain) == 30


def test_color_and_cutoff_are_applied(record_set):
    _, pictures = collect(FaceIter(
        record_set, 30, aug.Augmentation(0, cutoff=6, gray=1.0), shuffle=False))
    assert all((planes[0] == planes[1]).all() for planes in pictures)
    assert all((planes == 127.5).any() for planes in pictures)


def test_the_first_epoch_may_have_the_order_of_the_keys(record_set):
    """As the reference's step 3.2: shuffled from the second epoch on."""
    iterator = FaceIter(record_set, 3, seed=1, shuffled_from=1)
    first = collect(iterator)[0]
    assert first.tolist() == [label for label in range(10) for _ in range(3)]
    iterator.reset()
    second = collect(iterator)[0]
    assert sorted(second) == sorted(first) and second.tolist() != first.tolist()
    plain = FaceIter(record_set, 3, seed=1)
    plain.reset()
    assert collect(plain)[0].tolist() == second.tolist()


def test_seek_enters_an_epoch_anywhere(record_set):
    whole = FaceIter(record_set, 5, aug.COLOR, seed=4)
    collect(whole)
    whole.reset()
    labels, pictures = collect(whole)
    other = FaceIter(record_set, 5, aug.COLOR, seed=4)
    other.next()
    other.seek(1, 4)
    assert other.position == (1, 4)
    rest = collect(other)
    np.testing.assert_array_equal(rest[0], labels[20:])
    np.testing.assert_array_equal(rest[1], pictures[20:])
    assert other.position == (1, 6)


def test_parts_share_without_overlap_and_make_equal_steps(record_set):
    """The workers' batches side by side are the batches of one worker, augmentation included."""
    augmentation = aug.Augmentation(mirror=0.5, cutoff=2, gray=0.2, jitter=0.2)
    parts = [FaceIter(record_set, 3, augmentation, seed=5, num_parts=4, part_index=i)
             for i in range(4)]
    whole = FaceIter(record_set, 12, augmentation, seed=5)
    epochs = []
    for _ in range(2):
        steps = list(zip(*parts))
        epochs.append([part.index.tolist() for part in steps[0]])
        assert len(steps) == whole.batches == 2
        for step, batch in zip(steps, whole):
            keys = np.concatenate([part.index for part in step])
            assert len(set(keys)) == 12
            np.testing.assert_array_equal(keys, batch.index)
            for own, every in ((lambda b: b.data[0], batch.data[0]),
                               (lambda b: b.label[0], batch.label[0])):
                np.testing.assert_array_equal(
                    np.concatenate([own(part).asnumpy() for part in step]), every.asnumpy())
        for iterator in parts + [whole]:
            iterator.reset()
    assert epochs[0] != epochs[1]


def test_subset_of_keys(record_set):
    labels, pictures = collect(FaceIter(record_set, 2, keys=[30, 1], shuffle=False))
    assert labels.tolist() == [9, 0]
    np.testing.assert_array_equal(pictures[0], rgb(30))


def test_too_few_images(record_set):
    with pytest.raises(InputError, match="30 images do not fill one batch of 31"):
        FaceIter(record_set, 31)


def test_held_batches_are_not_overwritten(record_set):
    iterator = FaceIter(record_set, 3, shuffle=False, prefetch=1)
    batches = list(iterator)
    for number, batch in enumerate(batches):
        np.testing.assert_array_equal(batch.data[0].asnumpy()[0], rgb(3 * number + 1))


def test_buffers_are_recycled():
    buffers = BatchBuffers((2, 3))
    first, view = buffers.take()
    view[:] = 5
    assert (first.asnumpy() == 5).all()
    second, _ = buffers.take()
    assert second is not first
    del first, view
    assert len(buffers._pool) == 2
    buffers.take()
    assert len(buffers._pool) == 2


def damage(record_set, key):
    """Overwrite the picture of a record with zeros."""
    size = len(record_set.image(key)[1])
    end = int(record_set._ends[record_set._position(key)])
    with open(record_set.path, "r+b") as file:
        file.seek(end - (size + 3) // 4 * 4)
        file.write(b"\0" * size)


def test_a_damaged_picture_is_replaced_and_reported(record_set, caplog):
    damage(record_set, 4)
    with caplog.at_level(logging.WARNING):
        labels, pictures = collect(FaceIter(record_set, 5, shuffle=False))
    assert len(labels) == 30 and labels[3] == 1
    np.testing.assert_array_equal(pictures[3], rgb(5))
    assert "record 4" in caplog.text and caplog.text.count("skipped") == 1


def overwrite(record_set, key, place, data):
    with open(record_set.path, "r+b") as file:
        file.seek(int(record_set._offsets[record_set._position(key)]) + place)
        file.write(data)


def test_a_damaged_record_is_replaced_and_reported(record_set, caplog):
    overwrite(record_set, 4, 0, b"\x0b")  # a flipped bit of the magic number
    with caplog.at_level(logging.WARNING):
        labels, pictures = collect(FaceIter(record_set, 5, shuffle=False))
    assert len(labels) == 30 and labels[3] == 1
    np.testing.assert_array_equal(pictures[3], rgb(5))
    assert f"skipped (1 so far): {record_set.path}: record 4 at byte" in caplog.text


def test_a_class_outside_of_property_is_no_accident(record_set):
    overwrite(record_set, 4, 12, np.float32(10).tobytes())
    with pytest.raises(InputError, match="record 4 has label 10.0, which is not one of the 10 cla"):
        collect(FaceIter(record_set, 5, shuffle=False))


def test_too_many_damaged_pictures(record_set):
    for key in range(1, 6):
        damage(record_set, key)
    loader = PictureLoader(record_set, max_damaged=3)
    out = np.empty((10, 3, 12, 10), np.float32)
    futures = loader.submit(out, record_set.image_keys, 0)
    with pytest.raises(InputError, match="more than 3 pictures are damaged"):
        [future.result() for future in futures]


def test_wrong_size_is_damage(tmp_path):
    with RecordWriter(str(tmp_path), (12, 10)) as writer:
        for key in range(4):
            writer.add(0, encode(key, (12, 10) if key else (10, 12)))
    with RecordSet(str(tmp_path)) as records:
        loader = PictureLoader(records, max_damaged=0)
        futures = loader.submit(np.empty((1, 3, 12, 10), np.float32), records.image_keys, 0)
        with pytest.raises(InputError, match="record 1: the picture is 10 pixels high"):
            futures[0].result()
