"""The formats that ``fuzz.py`` damages: sound files, ways to damage them, commands to read them."""
import io
import json
import os
import pickle
import random
import re
import struct
import tarfile
import zipfile
import zlib
from typing import Any, Callable, Dict, Iterable, List, Tuple, Union

import cv2
import mxnet as mx
import numpy as np
from _mutations import EXTREMES, NAMES, NUMBERS, Way, damage, damage_json, damage_text

from unequal.commands import align, review
from unequal.commands.cli import main, report_errors
from unequal.data import convert, noise_lists
from unequal.data.decisions import DecisionFile
from unequal.data.records import RecordSet
from unequal.eval.bins import save_bin
from unequal.eval.features import mat_bytes, write_features
from unequal.models import checkpoints, untrusted
from unequal.symbols import heads, margins, networks

Commands = List[Any]  # the words of `unequal` each, or a function
Params = Dict[str, mx.nd.NDArray]

SIDE, IDENTITIES, SIZE = 32, 5, 8
MODEL, EPOCH = "model", 7
_OPERATORS = sorted(untrusted._OPERATORS)
_ODD_OPERATORS = ["Custom", "_cvimread", "_cvimdecode", "_foreach", "_while_loop", "_cond",
                  "_Native", "_NDArray", "_TensorRT", "_FusedOp", "_CachedOp", "_sg_mkldnn_conv",
                  "Embedding", "_contrib_Proposal", "RNN", "topk", "_arange", "_zeros",
                  "_random_uniform", "",
                  "null", "nothing", "Crop", "ROIPooling", "SequenceMask", "tile", "repeat", "Pad"]
# Attributes that operators understand, with values to get wrong.
_ATTRIBUTES = {
    "kernel": ("(1, 1)", "(3, 3)", "(5,)", "(2, 2, 2)", "()", "(32, 1)", "(0, 0)", "(1024, 1024)"),
    "stride": ("(1, 1)", "(2, 2)", "(0, 0)", "(7, 1)", "(1,)", "(1024, 1024)"),
    "pad": ("(0, 0)", "(1, 1)", "(5, 5)", "(1024, 1024)", "(1,)", "(-1, -1)"),
    "dilate": ("(1, 1)", "(2, 2)", "(0, 0)", "(1024, 1024)"),
    "num_filter": ("1", "16", "0", "7", "65536", "1000000000"),
    "num_group": ("1", "2", "3", "16", "0", "65536"),
    "num_hidden": ("1", "8", "0", "1048576", "1000000000000"),
    "no_bias": ("True", "False", "1", "x"), "pool_type": ("max", "avg", "sum", "lp", "x"),
    "global_pool": ("True", "False"), "pooling_convention": ("full", "valid", "same"),
    "p_value": ("1", "2", "3", "0"), "count_include_pad": ("True", "False", "None"),
    "act_type": ("relu", "sigmoid", "prelu", "leaky", "elu", "selu", "gelu", "rrelu", "softsign"),
    "slope": ("0.25", "nan"), "lower_bound": ("0.9", "-1"), "upper_bound": ("0.1", "1e999"),
    "axis": ("0", "1", "2", "3", "-1", "-5", "4", "100", "()", "(1, 2)", "(0, 0)", "None"),
    "begin": ("0", "-1", "5", "-100", "4294967296"), "end": ("1", "None", "-1", "0", "100"),
    "shape": ("(0, -1)", "(-1, 1)", "(0, 0, 0, 0)", "(-2,)", "(-4, 1, -1, -2)", "(1, -1, -1)",
              "(-3, -3)", "(1000000, 1000000, 1000000)", "()", "(0, -4)", "(-4,)"),
    "axes": ("(0, 1, 2, 3)", "(3, 2, 1, 0)", "(0, 0, 0, 0)", "(9, 9)", "()", "(0, -1)"),
    "dim1": ("0", "1", "5", "-1"), "dim2": ("0", "2", "9", "-7"), "num_outputs": ("1", "2", "5"),
    "squeeze_axis": ("True", "False"), "num_args": ("1", "2", "3", "4096"), "dim": ("1", "9", "-9"),
    "scale": ("2", "1", "64", "65"), "sample_type": ("nearest", "bilinear"),
    "multi_input_mode": ("concat", "sum"), "mode": ("instance", "channel", "spatial", "always"),
    "p": ("0.5", "1", "0", "2", "-1"), "eps": ("2e-05", "0", "-1", "nan", "1e-30"),
    "fix_gamma": ("True", "False"), "use_global_stats": ("True", "False"),
    "output_mean_var": ("True", "False"), "momentum": ("0.9", "nan"), "flatten": ("True", "False"),
    "dtype": ("float16", "float64", "int32", "uint8", "int8", "x", "bool", "bfloat16"),
    "scalar": ("0", "1", "nan", "inf", "1e-320", "x"), "a_min": ("0", "nan"), "a_max": ("1", "-1"),
    "keepdims": ("True", "False"), "exclude": ("True", "False"), "temperature": ("0", "1", "None"),
    "use_length": ("True", "False"), "layout": ("NCHW", "NHWC", "NCDHW", "NCW", "x"),
    "cudnn_tune": ("off", "x"), "workspace": ("0", "1024", "8192", "4294967296", "-1"),
    "transpose_a": ("True", "False"), "reverse": ("True", "False"), "is_int": ("True", "False"),
    "is_ascend": ("True",), "alpha": ("0.2", "nan"), "beta": ("0.5",),
}
_JSON_VALUES = {
    "keys": ["op", "name", "attrs", "inputs", "attr", "param", "nodes", "heads", "arg_nodes",
             "mxnet_version", "__shape__", "__dtype__", "__init__", "subgraphs",
             "node_row_ptr"] + list(_ATTRIBUTES),
    "texts": list(NUMBERS) + list(NAMES) + _OPERATORS + _ODD_OPERATORS + ["data", "fc1", "(0, 0)"],
}


def _pixels(random: np.random.RandomState) -> np.ndarray:
    coarse = random.randint(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def _jpeg(random: np.random.RandomState, *parameters: int) -> bytes:
    return cv2.imencode(".jpg", _pixels(random), parameters)[1].tobytes()


class Sound:
    """Sound files of every format, as bytes."""

    def __init__(self, folder: str) -> None:
        drawn = np.random.RandomState(0)
        self.pictures = {f"id{identity}/{number}.jpg": _jpeg(drawn)
                         for identity in range(IDENTITIES) for number in range(3 + identity % 3)}
        self.progressive = _jpeg(drawn, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
        self.png = cv2.imencode(".png", _pixels(drawn))[1].tobytes()
        self.unusual = {"x" + ending: cv2.imencode(ending, _pixels(drawn))[1].tobytes()
                        for ending in (".jp2", ".bmp", ".webp", ".tiff", ".ppm", ".ras")}
        source = os.path.join(folder, "pictures")
        for name, data in self.pictures.items():
            write(source, name, data)
        settings = convert.Settings(source, (SIDE, SIDE))
        self.sets = []
        for plain in (False, True):
            made = os.path.join(folder, f"set{plain:d}")
            convert.pack(source, made, settings, plain=plain)
            self.sets.append(contents(made))
        network = networks.get_symbol("n8", SIZE)
        symbol = heads.softmax_head(network, mx.sym.Variable("softmax_label"), IDENTITIES, SIZE)
        shapes, _, states = symbol.infer_shape(data=(1, 3, SIDE, SIDE), softmax_label=(1,))
        arguments = {name: mx.nd.array(0.1 * drawn.randn(*shape)) for name, shape in
                     zip(symbol.list_arguments(), shapes)
                     if name not in ("data", "softmax_label")}
        auxiliary = {name: mx.nd.ones(shape) for name, shape in
                     zip(symbol.list_auxiliary_states(), states)}
        checkpoints.save(os.path.join(folder, MODEL), EPOCH, symbol, arguments, auxiliary)
        self.symbol = read(folder, MODEL + "-symbol.json")
        self.params = read(folder, f"{MODEL}-{EPOCH:04d}.params")
        self.sub_centers = self._sub_centers(folder, arguments, auxiliary)
        jpegs = list(self.pictures.values())[:10] * 2 + list(self.pictures.values())[4:10] * 2
        self.same = [True, False] * 8
        save_bin(os.path.join(folder, "pairs.bin"), jpegs, self.same)
        arrays = [np.frombuffer(data, np.uint8) for data in jpegs]
        self.bins = [read(folder, "pairs.bin")] + [
            pickle.dumps((some, self.same), protocol) for some in (jpegs, arrays)
            for protocol in (0, 2, 4)]
        keys = range(1, len(self.pictures) + 1)
        labels = [int(name[2]) for name in self.pictures]
        self.noise_list = "".join(f"{label} {key} 0.25 0.125\n" for key, label in
                                  list(zip(keys, labels))[::4]).encode()
        self.truth = "key,label,true_identity,kind\n" + "".join(
            f"{key},{label},{label},{'flip' if key % 4 else 'clean'}\n"
            for key, label in zip(keys, labels))
        box, points = "\t2\t3\t30\t29", "\t9\t22\t15\t10\t21\t12\t12\t20\t25\t25"
        self.listed = "".join(
            f"{number % 2}\t{name}\t{label}"
            f"{'' if number % 3 else box + ('' if number % 2 else points)}\n"
            for number, (name, label) in enumerate(zip(self.pictures, labels)))
        names = [name for name in self.pictures if name.startswith("id")]
        self.pairs = "".join(f"{one}\t{two}\t{int(one[:3] == two[:3])}\n"
                             for one, two in zip(names, names[1:]))
        self.lfw = {f"P{number}/P{number}_{place:04d}.jpg": jpegs[2 * number + place]
                    for number in range(5) for place in (0, 1)}
        self.lfw_pairs = "10\t1\n" + "".join(
            f"P{number}\t0\t1\nP{number}\t0\tP{(number + 1) % 5}\t1\n"
            for number in range(5))
        self.cfp = {f"cfp/Data/Images/{who:03d}/{side}/{place:02d}.jpg": jpegs[2 * who]
                    for who in (1, 2, 3) for side in ("frontal", "profile") for place in (1, 2)}
        pictures = [(who, place) for who in (1, 2, 3) for place in (1, 2)]
        self.cfp_lists = {
            f"Pair_list_{side[0].upper()}.txt": "".join(
                f"{number} ../Data/Images/{who:03d}/{side}/{place:02d}.jpg\n"
                for number, (who, place) in enumerate(pictures, 1))
            for side in ("frontal", "profile")}
        for number in range(1, 11):
            for kind in ("FF", "FP"):
                self.cfp_lists[f"Split/{kind}/{number:02d}/same.txt"] = "1,2\n3,4\n"
                self.cfp_lists[f"Split/{kind}/{number:02d}/diff.txt"] = "1,3\n2,5\n"
        self.decisions = "key,decision,label\n1,keep,\n2,drop,\n4,relabel,0\n5,unsure,\n2,keep,\n"
        self.suspects = "key,path,label,kind,suggested_label,confidence\n" + "".join(
            f"{key},id{label}/{key}.jpg,{label},{('wrong label,1', 'stranger,')[key % 2]},0.{key}\n"
            for key, label in list(zip(keys, labels))[::3])
        features = drawn.randn(20, SIZE).astype(np.float32)
        self.features = {}
        for ending in (".npy", ".npz"):
            write_features(os.path.join(folder, "features" + ending), features.shape, [
                ([f"id{number % 4}/{number}" for number in range(20)], features)])
            self.features[ending] = read(folder, "features" + ending)
        self.features[".bin"] = mat_bytes(features)
        self.feature_names = read(folder, "features.npy.txt")
        self.feature_noise = b"# bad\nid1/1.jpg\nid2/2\n1\tid3/3\n"
        made = os.path.join(folder, "run", "model")
        if main(self.training(os.path.join(folder, "set0"), made, 2)):
            raise RuntimeError("the run that the fuzzer damages does not run")
        with np.load(made + "-resume.npz") as arrays:
            self.state = dict(arrays)
        self.log = read(folder, "run/model-trainlog.jsonl")
        main(["report", os.path.join(folder, "run")])  # matplotlib makes a list of fonts once
        self.scores = noise_lists.scores_head("0") + noise_lists.score_rows((
            np.array(labels), np.array(keys), *np.full((2, len(labels)), 0.25),
            np.arange(len(labels)) / len(labels), np.array(labels)))

    @staticmethod
    def _sub_centers(folder: str, arguments: Params, auxiliary: Params) -> Tuple[bytes, bytes]:
        """Symbol and parameters of a model with two centres a class."""
        symbol = heads.softmax_head(
            networks.get_symbol("n8", SIZE), mx.sym.Variable("softmax_label"), IDENTITIES, SIZE,
            margins.Margin(sub_centers=2))
        weight = arguments["fc7_weight"]
        checkpoints.save(os.path.join(folder, "two"), EPOCH, symbol, dict(
            arguments, fc7_weight=mx.nd.concat(weight, -weight, dim=0)), auxiliary)
        return (read(folder, "two-symbol.json"),
                read(folder, f"two-{EPOCH:04d}.params"))

    @staticmethod
    def training(directory: str, prefix: str, steps: int, *more: str) -> List[str]:
        """A command that trains for so many batches."""
        return ["train", "softmax", "--network", "n8", "--emb-size", str(SIZE), "--data-dir",
                directory, "--eval-dir", directory, "--target", "pairs", "--per-batch-size", "8",
                "--lr", "0.01", "--lr-steps", "100", "--verbose", "1", "--patience", "0",
                "--max-steps", str(steps), "--prefix", prefix, *more]


def write(folder: str, name: str, data: Union[bytes, str]) -> str:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())
    return path


def read(folder: str, name: str) -> bytes:
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def contents(folder: str) -> Dict[str, bytes]:
    return {name: read(folder, name) for name in os.listdir(folder)}


class Case:
    """One damaged input: its files below ``inside``, results go below ``out``."""

    def __init__(self, random: random.Random, sound: Sound, inside: str, out: str,
                 outside: str) -> None:
        self.random, self.sound = random, sound
        self.inside, self.out, self.outside = inside, out, outside

    def put(self, name: str, data: Union[bytes, str]) -> str:
        return write(self.inside, name, data)

    def put_model(self, **changed: bytes) -> None:
        self.put(MODEL + "-symbol.json", changed.get("symbol", self.sound.symbol))
        self.put(f"{MODEL}-{EPOCH:04d}.params", changed.get("params", self.sound.params))

    @property
    def model(self) -> str:
        return f"{os.path.join(self.inside, MODEL)},{EPOCH}"

    def to(self, name: str) -> str:
        return os.path.join(self.out, name)

    def text(self, data: Union[bytes, str]) -> bytes:
        return damage_text(self.random, data if isinstance(data, bytes) else data.encode(),
                           self.outside)

    def put_set(self, **changed: bytes) -> str:
        """A sound record set with some files changed; its folder."""
        files = dict(self.sound.sets[0], **changed)
        for file, data in files.items():
            self.put(os.path.join("set", file), data)
        return os.path.join(self.inside, "set")

    def set_commands(self, changed: Dict[str, Callable[[bytes], bytes]],
                     run_network: bool = True) -> Commands:
        """A set with some files changed, and everything that reads one."""
        files = dict(self.random.choice(self.sound.sets))
        for name, change in changed.items():
            files[name] = change(files.get(name, b""))
        for name, data in files.items():
            self.put("set/" + name, data)
        directory = os.path.join(self.inside, "set")
        self.put("noise.txt", self.sound.noise_list)
        commands = [
            ["inspect", directory, "--processes", "1"],
            ["unpack", directory, self.to("unpacked")],
            ["split", directory, self.to("head"), self.to("tail"), "--head-min-images", "4"],
            ["denoise", directory, os.path.join(self.inside, "noise.txt"), self.to("clean")]]
        if not self.random.randrange(3):
            commands += [
                ["corrupt", directory, self.to("noisy"), "--flip", "0.2"],
                ["import", "insightface", directory, self.to("pack"), "--head-min-images", "4"]]
        if run_network:
            self.put_model()
            commands += [
                ["embed", directory, "--model", self.model, "--out", self.to("features.npy"),
                 "--batch-size", "8"],
                ["noise", directory, "--pretrained", self.model, "--threshold", "0.5", "--out",
                 self.to("list.txt"), "--batch-size", "8"]]
            if not self.random.randrange(4):
                commands.append(["noise", directory, "--pretrained", self.model, "--out",
                                 self.to("found.txt"), "--batch-size", "8"])
        return commands


def _records_fields(data: bytes) -> List[int]:
    """Places of the numbers of a .rec: magic, length, flag, label, ids, further labels."""
    place, fields = 0, []
    while place + 32 <= len(data):
        length = int.from_bytes(data[place + 4:place + 8], "little") & 0x1FFFFFFF
        fields += [place, place + 4, place + 4, place + 8, place + 8, place + 12, place + 12,
                   place + 16, place + 24]
        if length <= 32:
            fields += [place + 32, place + 36] * 2
        place += 8 + (length + 3) // 4 * 4
    return fields


def _set_field(fields: Callable[[bytes], List[int]]) -> Way:
    def change(random: random.Random, data: bytes) -> bytes:
        places = fields(data)
        if not places:
            return data
        place = random.choice(places)
        value = random.choice((
            struct.pack("<I", random.choice(EXTREMES) & 0xFFFFFFFF),
            struct.pack("<I", random.randrange(8) << 29 | random.choice((0, 1, 24, 100, 1 << 28))),
            struct.pack("<f", random.choice((
                float("nan"), float("inf"), -1.0, 0.5, 4.0, 5.0, 1e10, 16777217.0, 2.0 ** 31,
                2.0 ** 63, -3e38, 17.0, 22.0)))))
        return data[:place] + value + data[place + 4:]
    return change


def rec(case: Case) -> Commands:
    return case.set_commands({"train.rec": lambda data: damage(
        case.random, data, [_set_field(_records_fields)])})


def idx(case: Case) -> Commands:
    return case.set_commands({"train.idx": case.text})


def property_file(case: Case) -> Commands:
    return case.set_commands({"property": case.text})


def lst(case: Case) -> Commands:
    if case.random.randrange(4) == 0:  # the list beside a set
        return case.set_commands({"train.lst": case.text}, run_network=False)
    for name, data in case.sound.pictures.items():
        case.put("pictures/" + name, data)
    listed = case.put("pictures.lst", case.text(case.sound.listed))
    return [["pack", listed, case.to("set"), "--root", os.path.join(case.inside, "pictures"),
             "--size", str(SIDE), "--processes", "1"]]


def identities_csv(case: Case) -> Commands:
    return case.set_commands({"identities.csv": case.text}, run_network=False)


_GLOBALS = (("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "eval"),
            ("builtins", "exec"), ("builtins", "getattr"), ("subprocess", "Popen"),
            ("importlib", "import_module"), ("numpy", "load"),
            ("numpy.core.multiarray", "fromfile"),
            ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"), ("numpy.core.numeric", "_frombuffer"),
            ("_codecs", "encode"), ("_codecs", "open"), ("builtins", "bytes"), ("os", "path.join"),
            ("unequal.eval.bins", "_reconstruct"), ("pickle", "loads"), ("ctypes", "CDLL"))


def _hostile_pickle(random: random.Random, outside: str) -> bytes:
    command = f"touch {outside}/escaped"
    module, name = random.choice(_GLOBALS)
    argument = random.choice((command, f"__import__('os').system({command!r})", "float32",
                              "O8", "V9999999999", "f8"))
    reach = random.choice((
        f"c{module}\n{name}\n".encode(),
        pickle.SHORT_BINUNICODE + bytes([len(module)]) + module.encode() + pickle.SHORT_BINUNICODE
        + bytes([len(name)]) + name.encode() + pickle.STACK_GLOBAL))
    text = pickle.BINUNICODE + struct.pack("<I", len(argument)) + argument.encode()
    quoted = argument.replace("'", "")
    call = random.choice((
        reach + text + pickle.TUPLE1 + pickle.REDUCE,
        reach + pickle.MARK + text + pickle.TUPLE + pickle.REDUCE,
        pickle.MARK + reach + text + pickle.OBJ,
        reach + text + pickle.TUPLE1 + pickle.NEWOBJ,
        f"(S'{quoted}'\ni{module}\n{name}\n".encode(),
        reach + text + pickle.BUILD,
        reach + text + pickle.TUPLE1 + pickle.REDUCE + pickle.EMPTY_DICT + text + text
        + pickle.SETITEM + pickle.BUILD,
        pickle.EXT1 + b"\x01", f"P{argument}\n".encode()))
    return random.choice((
        pickle.PROTO + b"\x04" + call + pickle.STOP,
        pickle.EMPTY_LIST + call + pickle.APPEND + pickle.NEWTRUE + pickle.TUPLE2 + pickle.STOP,
        pickle.EMPTY_LIST + pickle.MARK + call * 2 + pickle.APPENDS + pickle.EMPTY_LIST
        + pickle.NEWTRUE + pickle.APPEND + pickle.TUPLE2 + pickle.STOP))


def _pickle_bomb(random: random.Random, _: str) -> bytes:
    big = pickle.BINUNICODE + struct.pack("<I", 1 << 16) + b"a" * (1 << 16)
    encode = b"c_codecs\nencode\n"
    return random.choice((
        pickle.EMPTY_LIST + pickle.MARK + pickle.NEWTRUE * 5000000 + pickle.APPENDS
        + pickle.EMPTY_LIST + pickle.MARK + pickle.NEWTRUE * 10 + pickle.APPENDS + pickle.TUPLE2,
        b"(" * 300000, pickle.EMPTY_LIST * 300000 + pickle.APPEND * 299999,
        big + b"q\x00" + pickle.EMPTY_LIST + pickle.MARK + (
            encode + b"h\x00" + b"X\x06\x00\x00\x00latin1" + b"\x86R") * 20000 + pickle.APPENDS,
        big + b"q\x00" + pickle.EMPTY_LIST + pickle.MARK + b"h\x00" * 500000 + pickle.APPENDS,
        b"B\x01\x00\x00\x00xq\x00]q\x01(" + b"h\x00" * 4400000 + b"e](" + b"\x88" * 2200000
        + b"e\x86",
        b"I" + b"9" * 300000 + b"\n", b"L" + b"9" * 300000 + b"L\n", b"p" + b"9" * 300000 + b"\n",
        b"g" + b"9" * 300000 + b"\n", pickle.LONG4 + struct.pack("<i", 1 << 30),
        pickle.BINUNICODE8 + struct.pack("<Q", 1 << 62),
        pickle.BINBYTES8 + struct.pack("<Q", 1 << 40),
        pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40), pickle.FRAME + struct.pack("<Q", 1 << 50),
        b"]q\x00h\x00a" + b"h\x00a" * 1000, b"r\xff\xff\xff\x7f" * 100)) + pickle.STOP


def _random_program(random: random.Random, _: str) -> bytes:
    codes = [getattr(pickle, name) for name in pickle.__all__ if name.isupper()
             and isinstance(getattr(pickle, name), bytes)]
    return b"".join(random.choice(codes) + random.choice((b"", b"", b"\x00", b"\x01\x00\x00\x00",
                                                          b"0\n", b"os\nsystem\n"))
                    for _ in range(random.randrange(1, 60))) + pickle.STOP


def bin_file(case: Case) -> Commands:
    random = case.random
    way = random.randrange(8)
    if way < 5:
        data = damage(random, random.choice(case.sound.bins))
    else:
        data = (_hostile_pickle, _hostile_pickle, _random_program if random.randrange(4)
                else _pickle_bomb)[way - 5](random, case.outside)
    path = case.put("pairs.bin", data)
    case.put_model()
    return [["inspect", path],
            ["verify", "--model", case.model, "--eval-dir", case.inside, "--target", "pairs",
             "--batch-size", "8", "--bootstrap", "none", "--json", case.to("numbers.json")]]


def _params_fields(data: bytes) -> List[int]:
    """Places of the numbers of a .params: counts, magics, shapes, types, lengths of names."""
    fields, place = [0, 8, 16, 20], 24
    count = int.from_bytes(data[16:24], "little")
    for _ in range(min(count, 1000)):
        if place + 12 > len(data):
            return fields
        dimensions = int.from_bytes(data[place + 8:place + 12], "little")
        if dimensions > 8:
            return fields
        end = place + 12 + 8 * dimensions + 12
        fields += range(place, end, 4)
        size = 4
        for axis in range(dimensions):
            begin = place + 12 + 8 * axis
            size *= int.from_bytes(data[begin:begin + 8], "little")
        place = end + size
    for _ in range(min(count, 1000) + 1):
        fields += [place, place + 4]
        place += 8 + int.from_bytes(data[place:place + 8], "little")
        if place > len(data):
            break
    return [field for field in fields if field + 4 <= len(data)]


def params(case: Case) -> Commands:
    case.put_model(params=damage(case.random, case.sound.params, [_set_field(_params_fields)] * 2))
    return _model_commands(case)


def _model_commands(case: Case) -> Commands:
    for name, data in list(case.sound.pictures.items())[:9]:
        case.put("pictures/" + name, data)
    case.put("pairs.bin", case.sound.bins[0])
    files = case.sound.sets[0]
    for name, data in files.items():
        case.put("set/" + name, data)
    return [["embed", os.path.join(case.inside, "pictures"), "--model", case.model, "--out",
             case.to("features.npz"), "--batch-size", "8"],
            ["verify", "--model", case.model, "--eval-dir", case.inside, "--target", "pairs",
             "--batch-size", "8", "--bootstrap", "none"],
            ["noise", os.path.join(case.inside, "set"), "--pretrained", case.model, "--threshold",
             "0.5", "--out", case.to("list.txt"), "--batch-size", "8"]]


def _insert_layer(random: random.Random, data: bytes) -> bytes:
    """Another layer between two: an operator that is allowed, its attributes at random."""
    document = json.loads(data)
    nodes = document["nodes"]
    after = random.choice([place for place, node in enumerate(nodes) if node["op"] != "null"])
    name = random.choice(_OPERATORS)
    counts = untrusted._OPERATORS[name] or (1, 2, 3)
    count = random.choice(counts)
    extra = [{"op": "null", "name": f"extra{number}", "inputs": [],
              "attrs": {"__shape__": random.choice(("(1,)", "(16,)", "(0,)", "(16, 16, 1, 1)",
                                                    "(1, 16, 1, 1)", "()"))}}
             for number in range(count - 1)]
    attributes = {key: random.choice(_ATTRIBUTES[key]) for key in _likely(random, name)}
    if untrusted._OPERATORS[name] is None:
        attributes["num_args"] = str(count)
    size = len(extra) + 1

    def moved(place: int, output: int) -> List[int]:
        if place == after:
            return [after + size, output, 0]
        return [place + size if place > after else place, output, 0]

    for node in nodes[after + 1:]:
        node["inputs"] = [moved(place, output) for place, output, *_ in node["inputs"]]
    sources = [place for place in range(after + 1) if nodes[place]["op"] != "null"]
    inputs = [[after, 0, 0]] + [
        [after + 1 + number, 0, 0] if random.randrange(2) else [random.choice(sources), 0, 0]
        for number in range(count - 1)]
    nodes[after + 1:after + 1] = extra + [
        {"op": name, "name": "inserted", "attrs": attributes, "inputs": inputs}]
    document["heads"] = [moved(place, output) for place, output, *_ in document["heads"]]
    return json.dumps(document).encode()


def _likely(random: random.Random, name: str) -> List[str]:
    """Attributes that an operator knows, and sometimes another."""
    known = getattr(mx.sym, name, None) or getattr(mx.sym._internal, name)
    wanted = [key for key in _ATTRIBUTES if re.search(rf"\b{key}\b", known.__doc__ or "")]
    wanted = [key for key in wanted if random.randrange(3)]
    return wanted + [random.choice(list(_ATTRIBUTES))] * (not random.randrange(20))


def _change_attribute(random: random.Random, data: bytes) -> bytes:
    document = json.loads(data)
    node = random.choice([node for node in document["nodes"] if node["op"] != "null"])
    attributes = node.setdefault("attrs", {})
    known = [key for key in attributes if key in _ATTRIBUTES] or list(_ATTRIBUTES)
    key = random.choice(known if random.randrange(3) else list(_ATTRIBUTES))
    attributes[key] = random.choice(_ATTRIBUTES[key] + (random.choice(NUMBERS),))
    if not random.randrange(6):
        node["op"] = random.choice(_OPERATORS + _ODD_OPERATORS)
    return json.dumps(document).encode()


def symbol(case: Case) -> Commands:
    random = case.random
    way = random.randrange(10)
    data = case.sound.symbol
    if way < 2:
        data = damage(random, data)
    elif way < 4:
        data = damage_json(random, data, _JSON_VALUES)
    else:
        for _ in range(random.choice((1, 1, 2))):
            data = (_insert_layer if way < 8 else _change_attribute)(random, data)
    if not random.randrange(200):
        data = b"[" * 100000
    case.put_model(symbol=data)
    return _model_commands(case)


def noise_list(case: Case) -> Commands:
    files = case.random.choice(case.sound.sets)
    for name, data in files.items():
        case.put("set/" + name, data)
    path = case.put("noise.txt", case.text(case.sound.noise_list))
    return [["denoise", os.path.join(case.inside, "set"), path, case.to("clean")]]


def truth_csv(case: Case) -> Commands:
    commands = case.set_commands({})
    path = case.put("truth.csv", case.text(case.sound.truth))
    return [commands[-1] + ["--truth", path]]


def features(case: Case) -> Commands:
    random = case.random
    whole = {ending: case.put("whole" + ending, data)
             for ending, data in case.sound.features.items()}
    case.put("whole.npy.txt", case.sound.feature_names)
    ending = random.choice((".npy", ".npy", ".npz", ".bin", ".bin"))
    data = case.sound.features[ending]
    if ending == ".npz" and random.randrange(3) == 0:
        data = _hostile_npz(random)
    else:
        data = damage(random, data)
    damaged = case.put("damaged" + ending, data)
    names = case.sound.feature_names
    if ending == ".npy":
        case.put("damaged.npy.txt", case.text(names) if random.randrange(3) == 0 else names)
    noise = case.put("noise.txt", case.text(case.sound.feature_noise)
                     if random.randrange(3) == 0 else case.sound.feature_noise)
    case.put("tree/p/1.bin", mat_bytes(np.ones(SIZE, np.float32)))
    case.put("tree/p/2.bin", damage(random, mat_bytes(np.ones(SIZE, np.float32))))
    tail = ["--max-rank", "5", "--distractor-noise", noise, "--probe-noise", noise]
    return [["identify", "--probes", whole[".npz"], "--distractors", damaged] + tail,
            ["identify", "--probes", damaged, "--distractors", whole[".bin"], "--json",
             case.to("numbers.json")] + tail,
            ["identify", "--probes", whole[".npy"], "--distractors",
             os.path.join(case.inside, "tree")] + tail]


def _hostile_npz(random: random.Random) -> bytes:
    """Members that say other sizes than they have, or hold far more than the file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("features.npy", "names.npy"):
            kind = random.choice(("<f4", "<f8", "<U4", "<U99999999", "|O", "|V8", "<c8",
                                  [("a", "<f4")]))
            shape = random.choice(((20, 8), (20,), (10 ** 12, 8), (2 ** 62, 2 ** 62), (0, 8),
                                   (8, 0), (-1, 8), (), (1, 10 ** 13), (10 ** 9,)))
            member = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                member, {"descr": kind, "fortran_order": random.random() < 0.2, "shape": shape})
            body = b"\0" * random.choice((0, 80, 640, 1 << 26))
            archive.writestr(random.choice((name, "../" + name, name)), member.getvalue() + body)
    return content.getvalue()


def _jpeg_sides(random: random.Random, data: bytes) -> bytes:
    place = data.find(random.choice((b"\xff\xc0", b"\xff\xc2")))
    if place < 0:
        return data
    sides = struct.pack(">HH", *(random.choice((0, 1, 31, 33, 4096, 30000, 65500, 65535))
                                 for _ in range(2)))
    return data[:place + 5] + sides + data[place + 9:]


def _jpeg_scans(random: random.Random, data: bytes) -> bytes:
    begin, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    return data[:end] + data[begin:end] * random.choice((10, 1000)) + data[end:]


def _png_sides(random: random.Random, data: bytes) -> bytes:
    sides = struct.pack(">II", *(random.choice((0, 1, 31, 33, 4096, 65535, 10 ** 6, 2 ** 31 - 1))
                                 for _ in range(2)))
    header = b"IHDR" + sides + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def picture(case: Case) -> Commands:
    random = case.random
    for name, data in list(case.sound.pictures.items())[:6]:
        case.put("pictures/" + name, data)
    kind = random.randrange(5)
    if kind == 0:
        name, data = "x.png", damage(random, case.sound.png, [_png_sides])
    elif kind < 3:
        data = case.sound.progressive if kind == 1 else case.sound.pictures["id0/0.jpg"]
        name, data = "x.jpg", damage(random, data, [_jpeg_sides, _jpeg_sides, _jpeg_scans])
    else:  # decoded in a process of its own
        name = random.choice(sorted(case.sound.unusual))
        data = damage(random, case.sound.unusual[name])
    case.put("pictures/id1/" + name, data)
    case.put_model()
    pictures = os.path.join(case.inside, "pictures")
    return [["pack", pictures, case.to("set"), "--size", str(SIDE), "--processes",
             str(1 + (not random.randrange(12)))],
            ["embed", pictures, "--model", case.model, "--out", case.to("tree") + os.sep,
             "--batch-size", "8"]]


def pairs_list(case: Case) -> Commands:
    is_lfw = case.random.randrange(2)
    for name, data in (case.sound.lfw if is_lfw else case.sound.pictures).items():
        case.put("pictures/" + name, data)
    path = case.put("pairs.txt", case.text(case.sound.lfw_pairs if is_lfw else case.sound.pairs))
    return [["pack-bin", path, os.path.join(case.inside, "pictures"), case.to("pairs.bin"),
             "--size", str(SIDE), "--processes", "1"]]


def _zip_of_arrays(arrays: Iterable[Tuple[str, np.ndarray]],
                   method: int = zipfile.ZIP_STORED) -> bytes:
    """As numpy.savez, any text for a name; checksums are right."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, array in arrays:
            member = io.BytesIO()
            np.lib.format.write_array(member, array)
            archive.writestr(name + ".npy", member.getvalue())
    return content.getvalue()


_HEADER_VALUES = {
    "keys": ["version", "identity", "position", "step", "saves", "best", "log", "verified"],
    "texts": list(NUMBERS) + [name for name in NAMES if "\0" not in name],
}


def _change_array(random: random.Random, arrays: List[Tuple[str, np.ndarray]]) -> None:
    """Other weights, momenta or header than the run has, each a sound array."""
    place = random.randrange(len(arrays))
    name, array = arrays[place]
    way = random.randrange(9)
    if way == 0:
        del arrays[place]
    elif way == 1:
        arrays.append((random.choice(("arg:extra", "extra", "aux:", ":", "momentum:data", "tail",
                                      "../escaped", name)), array))
    elif way == 2:
        array = array.astype(random.choice(("f8", "f2", "i4", "u1", "c8", "U5", "S3", ">f4", "?")))
    elif way == 3:
        array = array.reshape(-1)[:random.choice((0, 1, array.size))]
    elif way == 4 and array.dtype.kind == "f" and array.size:
        array = array.copy()
        array.flat[random.randrange(array.size)] = random.choice((np.nan, np.inf, 3e38))
    elif way == 5:
        array = np.zeros(random.choice(((), (0,), (1 << 24,), (1,) * 20, (2, 0, 3))), array.dtype)
    elif way == 6:
        array = np.asfortranarray(array[None])
    if way >= 7:
        headers = [place for place, (name, _) in enumerate(arrays) if name == "header"]
        for place in headers:  # none, when a change before this one took it
            header = arrays[place][1].tobytes()
            try:
                header = (damage_json(random, header, _HEADER_VALUES) if way == 7
                          else damage(random, header))
            except (ValueError, RecursionError):  # damaged already: no JSON any more
                header = damage(random, header)
            if not random.randrange(20):
                header = b"[" * 100000
            arrays[place] = "header", np.frombuffer(header, np.uint8)
    elif way >= 2:
        arrays[place] = name, array


def state(case: Case) -> Commands:
    """A state that is no damaged archive: its arrays and its header are what is wrong."""
    random = case.random
    files = dict(case.sound.sets[0], **{"pairs.bin": case.sound.bins[0]})
    for name, data in files.items():
        case.put("set/" + name, data)
    arrays = list(case.sound.state.items())
    for _ in range(random.choice((1, 1, 2))):
        _change_array(random, arrays)
    data = _zip_of_arrays(arrays, zipfile.ZIP_STORED if random.randrange(20)
                          else random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)))
    if not random.randrange(5):
        data = damage(random, data)
    write(case.out, "model-resume.npz", data)
    if not random.randrange(4):  # the one before it is sound
        write(case.out, "model-resume.1.npz", _zip_of_arrays(list(case.sound.state.items())))
    write(case.out, "model-trainlog.jsonl", case.sound.log if random.randrange(3) else
          case.text(case.sound.log))
    return [case.sound.training(os.path.join(case.inside, "set"), case.to("model"), 3,
                                "--resume")]


_RUN_VALUES = {
    "keys": ["title", "data", "seed", "seconds", "commands", "rows", "name", "model", "log",
             "accuracies", "noise", "list", "scores", "truth", "tail", "directory", "lfw"],
    "texts": list(NUMBERS) + list(NAMES) + ["model,7", "model-trainlog.jsonl", "set", "list.txt"],
}
_LOG_VALUES = {
    "keys": ["event", "step", "metrics", "results", "lr", "time", "speed", "epoch", "stage",
             "options", "accuracy_flip", "best_epoch", "prefix", "pretrained"],
    "texts": list(NUMBERS) + list(NAMES) + ["start", "train", "verify", "save", "end", "lr"],
}


def _log(case: Case) -> bytes:
    """Lines of a training log, some of them with other values."""
    lines = case.sound.log.splitlines()
    for _ in range(case.random.choice((1, 2, 4))):
        place = case.random.randrange(len(lines))
        lines[place] = damage_json(case.random, lines[place], _LOG_VALUES)
    data = b"\n".join(lines) + b"\n"
    return case.text(data) if case.random.randrange(4) == 0 else data


def run(case: Case) -> Commands:
    """A run's directory, with or without run.json."""
    random = case.random
    facts = {"title": "a run", "seed": 0, "seconds": 8.5, "commands": ["make demo"], "rows": [
        {"name": "step 2", "log": "model-trainlog.jsonl", "accuracies": {"lfw": 0.7}},
        {"name": "again", "log": "model-trainlog.jsonl", "accuracies": {"lfw": 0.8}}]}
    if not random.randrange(4):
        for name, data in case.sound.sets[0].items():
            case.put("run/MF2_pic9_head/" + name, data)
        facts.update(data=".", noise={"list": "list.txt", "scores": "scores.csv",
                                      "truth": "truth.csv"})
        for name, whole in (("list.txt", case.sound.noise_list), ("scores.csv", case.sound.scores),
                            ("truth.csv", case.sound.truth)):
            case.put("run/" + name, whole if random.randrange(4) else case.text(whole))
    what = random.randrange(3)
    case.put("run/model-trainlog.jsonl", case.sound.log if what == 0 else _log(case))
    if what < 2:
        data = json.dumps(facts).encode()
        for _ in range(random.choice((1, 1, 3)) if what == 0 else 0):
            data = damage_json(random, data, _RUN_VALUES)
        case.put("run/run.json", damage(random, data) if not random.randrange(8) else data)
    case.put("other/model-trainlog.jsonl", case.sound.log)
    runs = [os.path.join(case.inside, name) for name in ("run", "other")]
    return [["report", runs[0], "--out", case.to("report.html")],
            ["compare", *runs, "--out", case.to("compare.html")]]


def _folder_name(random: random.Random) -> str:
    """A name that a file system allows, and that a terminal or a table might obey."""
    letters = "".join(random.choice((
        "\x1b[2J", "\n", "\r", "\t", "\x07", "\u202e", "\u2028", "\x9b", "\udcff", "\udc80", "=",
        "-", "+", "@", "'", '"', ",", ";", "$", "\\", "\\x1b", "\\frac", "\u4eba", "\U0001f600",
        "\xa0", "error: ", "a", " ", "%s", "{}", "..", "\ufeff", "\U000e0001"))
        for _ in range(random.randrange(1, 6)))
    return letters if letters not in (".", "..") else "a"


def names(case: Case) -> Commands:
    """Folders and pictures of any name, packed, looked at, split and unpacked."""
    random = case.random
    chosen = [_folder_name(random) for _ in range(4)]
    for number, folder in enumerate(chosen):
        for place in range(2 + 2 * (number % 2)):
            name = _folder_name(random)[:20] + f"{place}.jpg"
            data = case.sound.pictures["id0/0.jpg"]
            case.put(os.path.join("pictures", folder, name),
                     data if random.randrange(6) else damage(random, data))
    made = case.to("set")
    return [["pack", os.path.join(case.inside, "pictures"), made, "--size", str(SIDE),
             "--processes", "1"],
            ["inspect", made, "--processes", "1"],
            ["split", made, case.to("head"), case.to("tail"), "--head-min-images", "3"],
            ["unpack", made, case.to("unpacked")]]


def decisions_file(case: Case) -> Commands:
    """Decisions of a review, made use of, and gone on with on the page."""
    random = case.random
    directory = case.put_set()
    path = case.put("decisions.csv", case.text(case.sound.decisions))
    if not random.randrange(8):
        path = case.put("decisions.csv", case.text(case.sound.noise_list))
    write(case.out, "more.csv", read(case.inside, "decisions.csv"))
    case.put("list.txt.csv", case.sound.suspects)
    return [["denoise", directory, path, case.to("clean"), *random.choice(([], ["--renumber"]))],
            _page(directory, os.path.join(case.inside, "list.txt"), case.to("more.csv"))]


def _page(directory: str, path: str, decided: str) -> Callable[[], int]:
    """What `unequal review` does, without a server: all that the page asks for, and a decision."""
    def look() -> None:
        with RecordSet(directory) as records:
            suspects = review.read_suspects(path)
            page = review.Review(records, suspects, DecisionFile(decided))
            json.dumps([page.listing(), page.state(), page.find("0"), page.find("id")])
            for suspect in page.suspects[:5]:
                page.typical(suspect.label)
                page.picture(suspect.key)
            if suspects:
                page.decide(suspects[0].key, "keep", None)

    def command() -> int:
        return report_errors(look)

    command.label = "review"  # type: ignore[attr-defined]
    return command


def suspects_table(case: Case) -> Commands:
    """The table beside a noise list, or a list without one, on the page."""
    directory = case.put_set(**({"identities.csv": case.text("label,source,name\n0,0,ann\n")}
                                if not case.random.randrange(4) else {}))
    if case.random.randrange(4):
        case.put("list.txt.csv", case.text(case.sound.suspects))
    else:
        case.put("list.txt", case.text(case.sound.noise_list))
    return [_page(directory, os.path.join(case.inside, "list.txt"), case.to("decisions.csv"))]


def _archive(random: random.Random, files: Dict[str, bytes]) -> bytes:
    """A .tar, its entries of any kind and name."""
    content = io.BytesIO()
    mode: Any = "w" + random.choice(("", "", ":gz", ":xz"))
    with tarfile.open(fileobj=content, mode=mode,
                      format=random.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            if not random.randrange(8):
                names = [other for other in NAMES
                         if len(other) < 99 and not {"\0", "\udcff"} & set(other)]
                entry.name = random.choice(names) + random.choice(("", "/P1/P1_0001.jpg"))
            if not random.randrange(12):
                entry.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE,
                                            tarfile.FIFOTYPE, tarfile.CHRTYPE))
                entry.linkname = random.choice(("../escaped", "/etc/hostname", name))
            if not random.randrange(12):
                entry.pax_headers = random.choice((
                    {"size": "99999999999"}, {"size": "-1"}, {"path": "x" * 100000},
                    {"GNU.sparse.realsize": "9999999999", "GNU.sparse.major": "1",
                     "GNU.sparse.minor": "0"}, {"mtime": "nan"}))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _tar_sizes(random: random.Random, data: bytes) -> bytes:
    """Another length in the header of an entry, its checksum right."""
    if len(data) < 512:
        return data
    place = random.randrange(len(data) // 512) * 512
    header = bytearray(data[place:place + 512])
    header[124:136] = random.choice((b"77777777777\0", b"00000000000\0", b"\x80" + b"\xff" * 11,
                                     b"-0000000001\0", b"\x80" + b"\0" * 7 + b"\1\0\0\0"))
    header[156:157] = random.choice((b"0", b"L", b"K", b"x", b"g", b"S", b"1", b"5", b"X", b"\0"))
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:place] + bytes(header) + data[place + 512:]


def published(case: Case) -> Commands:
    """LFW and CFP as they are published, in folders and archives, with their lists."""
    random = case.random
    is_lfw = random.randrange(2)
    if is_lfw:
        files = {"lfw/" + name: data for name, data in case.sound.lfw.items()}
        lists = {"pairs.txt": case.sound.lfw_pairs}
    else:
        files, lists = case.sound.cfp, dict(case.sound.cfp_lists)
    name = random.choice(list(lists))
    damaged = random.randrange(3)  # the lists, the archive or a picture
    changed = lists[name] if damaged else case.text(lists[name])
    for file, listed in {**lists, name: changed}.items():
        case.put(os.path.join("lists", file), listed)
    if random.randrange(3):
        data = _archive(random if damaged == 2 else type(random)(0), files)
        source = case.put("published.tar", data if damaged != 1
                          else damage(random, data, [_tar_sizes] * 2))
    else:
        source = os.path.join(case.inside, "published")
        for name, data in files.items():
            case.put(os.path.join("published", name),
                     data if random.randrange(8) or not damaged else damage(random, data))
    command = ["import", "lfw" if is_lfw else "cfp", source, case.to("set"), "--size", str(SIDE),
               "--processes", "1", "--protocol", os.path.join(case.inside, "lists")]
    if is_lfw and not random.randrange(3):
        command += ["--without", case.put("without.txt", case.text("1\tP1\n2\tP2\n"))]
    return [command]


def aligned(case: Case) -> Commands:
    """Photographs, and the table of a run before this one."""
    random = case.random
    for name, data in list(case.sound.pictures.items())[:3]:
        case.put("photos/" + name, data if random.randrange(3) else damage(
            random, data, [_jpeg_sides, _jpeg_scans]))
    rule = align.Settings("", (SIDE, SIDE)).rule
    table = (f"path,result,faces,score,x1,y1,x2,y2,rule\nid0/0.jpg,aligned,1,0.9,1,2,3,4,{rule}\n"
             f"id0/1.jpg,no face found,0,,,,,,{rule}\n")
    write(case.out, "faces/aligned.csv", table if random.randrange(2) else case.text(table))
    return [["align", os.path.join(case.inside, "photos"), case.to("faces"), "--size", str(SIDE),
             "--processes", "1"]]


def centers(case: Case) -> Commands:
    """A model with several centres a class."""
    directory = case.put_set()
    symbol, parameters = case.sound.sub_centers
    if case.random.randrange(2):
        symbol = damage_json(case.random, symbol, _JSON_VALUES)
    else:
        parameters = damage(case.random, parameters, [_set_field(_params_fields)] * 2)
    case.put_model(symbol=symbol, params=parameters)
    return [["drop-centers", case.model, case.to("dropped"), "--data-dir", directory,
             "--batch-size", "8"]]


# Format -> function of a Case: writes the damaged files, returns the commands that read them.
FORMATS = {
    "rec": rec, "idx": idx, "property": property_file, "lst": lst, "bin": bin_file,
    "params": params, "symbol": symbol, "noise-list": noise_list, "truth": truth_csv,
    "identities": identities_csv, "features": features, "picture": picture, "pairs": pairs_list,
    "state": state, "run": run, "names": names, "decisions": decisions_file,
    "suspects": suspects_table, "published": published, "align": aligned, "centers": centers,
}
