import gc
import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import mxnet as mx
import numpy as np
import pytest

from helpers.pictures import encoded, smooth
from unequal.data.batches import FaceIter
from unequal.data.loading import PictureLoader
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError
from unequal.system.mxnet_private import numpy_view

SIZE = (24, 20)
FACE = encoded(smooth(*SIZE))


@pytest.fixture
def record_set(tmp_path):
    with RecordWriter(str(tmp_path / "set"), SIZE) as writer:
        for place in range(64):
            writer.add(place // 8, FACE)
    with RecordSet(str(tmp_path / "set")) as records:
        yield records


def test_a_view_holds_its_array():
    array = mx.nd.array([[1, 2], [3, 4]])
    before = sys.getrefcount(array)
    row = numpy_view(array)[1:]
    assert sys.getrefcount(array) == before + 1
    del array
    gc.collect()
    assert row.tolist() == [[3, 4]]


def test_a_view_lets_go_of_its_array():
    array = mx.nd.zeros(3)
    before = sys.getrefcount(array)
    numpy_view(array)[1:].sum()
    gc.collect()
    assert sys.getrefcount(array) == before


# Threads used to write on into memory that MXNet had freed: six runs of six ended in a crash or
# never. Large pictures and batches, so that freed memory goes back to the system at once.
DROPPED = """
import sys
import unequal
import mxnet as mx
import numpy as np
from unequal.data import augmentation, pictures
from unequal.data.batches import FaceIter, UnequalIter
from unequal.data.records import RecordSet, RecordWriter
from unequal.models.embedder import Embedder

picture = pictures.encode(np.full((112, 112, 3), 90, np.uint8), 50)
with RecordWriter(sys.argv[1], (112, 112)) as writer:
    for place in range(400):
        writer.add(place // 20, picture)
records = RecordSet(sys.argv[1])
network = mx.sym.FullyConnected(mx.sym.Pooling(mx.sym.Variable("data"), kernel=(16, 16),
                                stride=(16, 16)), num_hidden=2, name="fc1")
model = Embedder(network, {"fc1_weight": mx.nd.ones((2, 147)), "fc1_bias": mx.nd.ones(2)}, {},
                 (112, 112), batch_size=100)
for round in range(8):
    iterator = FaceIter(records, 100, augmentation.COLOR, threads=4)
    batch = iterator.next()
    both = UnequalIter(records, records, 40, 60)
    both.tail = np.tile(records.image_keys[:60], (100, 1))
    both.next()
    stream = model.stream(records, threads=4)
    next(stream)
closed = FaceIter(records, 100)
closed.next()
closed.close()
closed.close()
del closed
for round in range(8):  # collected whenever and in whichever thread Python likes
    cycle = [FaceIter(records, 50), model.stream(records)]
    cycle[0].next(), next(cycle[1])
    cycle.append(cycle)
records.close()
print("done", flush=True)
"""  # ... and the last iterator, stream and batch live until the interpreter's end


def test_iterators_and_streams_may_be_dropped_at_any_time(tmp_path):
    ended = subprocess.run([sys.executable, "-c", DROPPED, str(tmp_path / "set")],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, b"done\n"), ended.stderr.decode()
    assert not ended.stderr


class Slow:
    """A record set whose pictures wait for a sign; counts how many were asked for."""

    path, image_keys, image_size = "slow", np.arange(64), SIZE

    def __init__(self):
        self.asked, self.go, self.begun = [], threading.Event(), threading.Event()

    def image(self, key):
        self.asked.append(key)
        self.begun.set()
        self.go.wait(20)
        return 0, FACE


def waits(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_close_waits_for_what_is_decoded_and_cancels_the_rest():
    slow = Slow()
    iterator = FaceIter(slow, 16, threads=1, prefetch=0)
    first = waits(lambda: pytest.raises(CancelledError, iterator.next))
    assert slow.begun.wait(20)
    closing = waits(iterator._loaders[0].close)
    closing.join(0.05)
    assert closing.is_alive()
    slow.go.set()
    closing.join(20)
    first.join(20)
    assert not closing.is_alive() and len(slow.asked) == 1
    with pytest.raises(RuntimeError, match="make a new iterator"):
        iterator.next()
    iterator.close()


def test_a_dropped_iterator_decodes_no_further():
    slow = Slow()
    iterator = FaceIter(slow, 16, threads=1)
    iterator._submit()
    assert slow.begun.wait(20)
    future = iterator._pending[0][1][0]
    del iterator
    gc.collect()
    slow.go.set()
    with pytest.raises(CancelledError):
        future.result(20)
    assert len(slow.asked) == 1


def test_an_array_is_no_other_batch_s_while_a_thread_writes_to_it():
    """A batch that fails in one thread is written to by another one for a while."""
    class Broken(Slow):
        def image(self, key):
            if key == 0:
                raise InputError("no such record")
            return super().image(key)

    slow = Broken()
    loader = PictureLoader(slow, threads=2, max_damaged=0)
    iterator = FaceIter(slow, 32, shuffle=False, threads=2, prefetch=0)
    iterator._loaders[0]._max_damaged = 0
    failing = waits(lambda: pytest.raises(InputError, iterator.next))
    assert slow.begun.wait(20)
    failing.join(0.05)
    assert failing.is_alive()
    slow.go.set()
    failing.join(20)
    assert not failing.is_alive()
    iterator.close()
    loader.close()


def test_loading_after_close(record_set):
    loader = PictureLoader(record_set)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError):
        loader.submit(np.empty((1, 3) + SIZE, np.float32), record_set.image_keys, 0)
