import os
import pickle
import struct

import numpy as np
import pytest

from unequal.errors import InputError
from unequal.eval.bins import load_bin, save_bin

IMAGES = [b"\xff\xd8\xff\xe0 first", b"\xff\xd8\xff\xe0 second", b"third\x00\n", b"\x80" * 300]


def _load(tmp_path, content):
    path = str(tmp_path / "set.bin")
    with open(path, "wb") as file:
        file.write(content)
    return load_bin(path)


def _python2(images=IMAGES, answers=b"\x88\x89"):
    """What Python 2's ``pickle.dump((images, issame), file, 2)`` writes, opcode by opcode."""
    listed = b"".join(
        (b"U" + bytes([len(image)]) if len(image) < 256 else b"T" + struct.pack("<i", len(image)))
        + image + b"q" + bytes([number + 2]) for number, image in enumerate(images))
    return b"\x80\x02]q\x01(" + listed + b"e]q\x60(" + answers + b"e\x86q\x61."


def test_python2_protocol_2(tmp_path):
    images, issame = _load(tmp_path, _python2())
    assert images == IMAGES
    assert issame.dtype == bool and issame.tolist() == [True, False]


def test_python2_protocol_0(tmp_path):
    # repr-escaped strings, decimal memo numbers, booleans as I01/I00, one long
    content = (b"((lp0\nS'\\xff\\xd8 a'\np1\naS'b\\n'\np2\naS\"c'\"\np3\naS'd'\np4\na"
               b"(lp5\nI01\naL0L\natp6\n.")
    images, issame = _load(tmp_path, content)
    assert images == [b"\xff\xd8 a", b"b\n", b"c'", b"d"]
    assert issame.tolist() == [True, False]


def test_python2_array_images(tmp_path):
    # numpy.ndarray by _reconstruct, (0,), 'b'; state (1, (3,), dtype('u1'), False, 'abc')
    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
             b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
             b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03abctb")
    images, issame = _load(tmp_path, b"\x80\x02](" + array + array + b"e]\x88a\x86.")
    assert [image.tolist() for image in images] == [[97, 98, 99]] * 2
    assert images[0].dtype == np.uint8 and issame.tolist() == [True]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("answers", [
    [True, False], (1, 0), np.array([True, False]), list(np.array([True, False])),
    np.array([1, 0]), [np.int64(1), np.uint8(0)]])
def test_python3_all_protocols(tmp_path, protocol, answers):
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    for images in (IMAGES, tuple(IMAGES), arrays):
        read, issame = _load(tmp_path, pickle.dumps((images, answers), protocol))
        assert [bytes(image) for image in read] == IMAGES
        assert issame.tolist() == [True, False]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pixels_keep_shape_and_order(tmp_path, protocol):
    pixels = np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    read, _ = _load(tmp_path, pickle.dumps([[pixels, pixels[::-1]], [True]], protocol))
    np.testing.assert_array_equal(read[0], pixels)
    np.testing.assert_array_equal(read[1], pixels[::-1])
    whole = np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3)
    read, _ = _load(tmp_path, pickle.dumps((whole, [True]), protocol))
    np.testing.assert_array_equal(read, whole)


def test_round_trip_and_reader_of_published_sets(tmp_path):
    path = str(tmp_path / "deep" / "set.bin")
    save_bin(path, iter(IMAGES[:3] + [np.frombuffer(IMAGES[3], np.uint8)]), [True, False])
    images, issame = load_bin(path)
    assert images == IMAGES and issame.tolist() == [True, False]
    with open(path, "rb") as file:  # how InsightFace reads it in Python 3
        assert pickle.load(file, encoding="bytes") == (IMAGES, [True, False])
    assert os.listdir(str(tmp_path / "deep")) == ["set.bin"]


def test_failed_save_leaves_the_old_file(tmp_path):
    path = str(tmp_path / "set.bin")
    save_bin(path, IMAGES, [True, False])

    def broken():
        yield IMAGES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_bin(path, broken(), [True])
    with pytest.raises(ValueError, match="3 images do not make 2 pairs"):
        save_bin(path, IMAGES[:3], [True, False])
    assert load_bin(path)[0] == IMAGES
    assert os.listdir(str(tmp_path)) == ["set.bin"]


class _Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


_STRING = b"U\x05touch"
_DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
_EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
HOSTILE = {
    "os.system": b"cos\nsystem\n(S'touch PWNED'\ntR.",
    "posix.system by name on the stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + _STRING
                                         + b"\x85R.",
    "eval": b"c__builtin__\neval\n(S'open(\"PWNED\", \"w\")'\ntR.",
    "getattr on what is known": b"cbuiltins\ngetattr\n.",
    "attribute of a known name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
    "numpy.load": b"cnumpy\nload\n(S'PWNED'\ntR.",
    "instance by INST": b"(S'touch PWNED'\nios\nsystem\n.",
    "instance by OBJ": b"(cos\nsystem\nS'touch PWNED'\no.",
    "NEWOBJ": b"\x80\x02cnumpy\ndtype\n(U\x02u1t\x81.",
    "persistent id": b"PPWNED\n.",
    "binary persistent id": _STRING + b"Q.",
    "extension code 1": b"\x80\x02\x82\x01.",
    "extension code 4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "dictionary": b"\x80\x02}.",
    "object array": pickle.dumps(([np.array([b"x", None], object)] * 2, [True]), 2),
    "structured dtype": pickle.dumps(([np.zeros(1, [("a", "u1")])] * 2, [True]), 2),
    "string array": pickle.dumps(([np.array(["x"])] * 2, [True]), 2),
    "date array": pickle.dumps(([np.zeros(1, "M8[s]")] * 2, [True]), 2),
    "dtype expression": b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
    "comma dtype": b"cnumpy\ndtype\n(S'u1,O'\nI0\nI1\ntR.",
    "dtype of a tuple": b"cnumpy\ndtype\n((I1\nI2\ntI0\nI1\ntR.",
    "dtype without arguments": b"cnumpy\ndtype\n)R.",
    "encode to another codec": b"c_codecs\nencode\n(VPWNED\nVzip\ntR.",
    "encode a number": b"c_codecs\nencode\n(I1\nVlatin1\ntR.",
    "reconstruct with too few": b"cnumpy.core.multiarray\n_reconstruct\n)R.",
    "ndarray called": b"cnumpy\nndarray\n((I1000000000\ntI1\ntR.",
    "bytes of a claimed size": b"c__builtin__\nbytes\n(I1000000000\ntR.",
    "scalar of nothing": b"cnumpy.core.multiarray\nscalar\n(" + _DTYPE + b"U\x00tR.",
    "call of a string": _STRING + b")R.",
    "state given to a function": b"cnumpy.core.multiarray\nscalar\n(I1\nI2\ntb.",
    "state given to a list": b"]K\x01b.",
    "array with the wrong shape": b"\x80\x02" + _EMPTY + b"(K\x01K\x09\x85" + _DTYPE
                                  + b"\x89U\x03abctb.",
    "array with shape -1": b"\x80\x02" + _EMPTY + b"(K\x01J\xff\xff\xff\xff\x85" + _DTYPE
                           + b"\x89U\x03abctb.",
    "array whose type is a string": b"\x80\x02" + _EMPTY + b"(K\x01K\x03\x85U\x02u1\x89U\x03abctb.",
    "append to an array": b"\x80\x02" + _EMPTY + b"K\x01a.",
    "empty file": b"",
    "only a stop": b".",
    "text": b"hello there",
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "protocol of the future": b"\x80\x63].",
    "memo of what was not put": b"h\x07.",
    "huge memo": b"]r\xff\xff\xff\xff.",
    "claim of 2 GB": b"T\xff\xff\xff\x7fab.",
    "negative length": b"T\xff\xff\xff\xffab.",
    "claim of an exabyte": b"\x8e\x00\x00\x00\x00\x00\x00\x00\x10ab.",
    "bytearray of an exabyte": b"\x96\x00\x00\x00\x00\x00\x00\x00\x10ab.",
    "frame of an exabyte": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x10ab.",
    "number of a million digits": b"I" + b"9" * 10 ** 6 + b"\n.",
    "long of a million digits": b"L" + b"9" * 10 ** 6 + b"L\n.",
    "very deep lists": b"(" * 200000 + b"l" * 200000 + b".",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        _load(tmp_path, HOSTILE[name])
    message = str(error.value)
    assert message.startswith(str(tmp_path / "set.bin") + ": ") and message.endswith(".")
    assert "\n" not in message and len(message) < 400
    assert os.listdir(str(tmp_path)) == ["set.bin"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_calls_hidden_in_a_good_set(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    for call in (_Call(os.system, "touch PWNED"), _Call(eval, "1"), _Call(np.fromfile, "x")):
        with pytest.raises(InputError, match=r"refused, the pickle asks for `[\w.]+`"):
            _load(tmp_path, pickle.dumps((IMAGES, [True, call]), protocol))
    assert os.listdir(str(tmp_path)) == ["set.bin"]


def test_every_truncation_is_refused(tmp_path):
    for content in (_python2(), pickle.dumps((IMAGES, np.array([True, False])), 4)):
        for length in range(len(content)):
            with pytest.raises(InputError, match="truncated|refused"):
                _load(tmp_path, content[:length])


def test_random_damage_never_escapes(tmp_path):
    content = _python2(IMAGES[:2], b"\x88")
    random = np.random.RandomState(0)
    for _ in range(2000):
        damaged = bytearray(content)
        for _ in range(random.randint(1, 4)):
            damaged[random.randint(len(damaged))] = random.randint(256)
        try:
            images, issame = _load(tmp_path, bytes(damaged))
        except InputError:
            continue
        assert len(images) == 2 * len(issame)
        assert all(type(image) is bytes for image in images)


@pytest.mark.parametrize("content, text", [
    ((IMAGES, [True]), "has 4 images and 1 answers"),
    ((IMAGES[:3], [True]), "has 3 images and 1 answers"),
    (([], []), "has 0 images and 0 answers"),
    ((IMAGES, [True, 2]), "the answer of pair 1 is neither true nor false"),
    ((IMAGES, [None, True]), "the answer of pair 0 is neither true nor false"),
    ((IMAGES, [0.0, 1.0]), "the answer of pair 0 is neither true nor false"),
    ((IMAGES, np.ones((2, 2), bool)), "the answer of pair 0 is neither true nor false"),
    ((IMAGES, np.array(True)), "holds no pair of lists"),
    ((IMAGES, 2), "holds no pair of lists"),
    (b"ab", "holds no pair of lists"),
    (IMAGES, "holds no pair of lists"),
    ((IMAGES[:3] + ["text"], [True, True]), "image 3 is neither a byte string nor a uint8 array"),
    ((IMAGES[:3] + [b""], [True, True]), "image 3 is neither a byte string nor a uint8 array"),
    ((IMAGES[:3] + [np.ones(3)], [True, True]), "image 3 is neither a byte string nor a uint8"),
    (([[b"a"], b"b"], [True]), "image 0 is neither a byte string nor a uint8 array"),
])
def test_wrong_contents(tmp_path, content, text):
    with pytest.raises(InputError, match=text):
        _load(tmp_path, pickle.dumps(content, 2))


def test_missing_file_names_itself(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_bin(str(tmp_path / "none.bin"))
    assert error.value.filename == str(tmp_path / "none.bin")
