import json
import struct

import mxnet as mx
import numpy as np
import pytest

from unequal.errors import InputError
from unequal.models import untrusted
from unequal.symbols import fresnet, heads, networks

VALUES = {"arg:w": np.arange(6, dtype="float32").reshape(2, 3), "aux:m": np.ones(4, "float16"),
          "arg:n": np.array([[-1]], "int64"), "arg:b": np.zeros((1, 2, 1, 1), "uint8"),
          "aux:d": np.full(3, 0.1), "arg:i": np.array([7], "int32"),
          "arg:s": np.array([-7], "int8")}


def saved(tmp_path, values=None):
    path = tmp_path / "m-0000.params"
    mx.nd.save(str(path), {name: mx.nd.array(value, dtype=value.dtype) for name, value in
                           (values or VALUES).items()})
    return path


def test_arrays_are_what_mxnet_saved(tmp_path):
    path = saved(tmp_path)
    arguments, states = untrusted.read_arrays(str(path))
    assert sorted(arguments) == ["b", "i", "n", "s", "w"] and sorted(states) == ["d", "m"]
    for kind, params in (("arg:", arguments), ("aux:", states)):
        for name, array in params.items():
            assert array.dtype == VALUES[kind + name].dtype
            np.testing.assert_array_equal(array.asnumpy(), VALUES[kind + name])


def test_the_older_form_of_an_array(tmp_path):
    path = saved(tmp_path, {"arg:w": VALUES["arg:w"]})
    data = path.read_bytes()
    # Before MXNet 1.0 there was no storage type after the magic number.
    path.write_bytes(data[:24] + struct.pack("<I", 0xF993FAC8) + data[32:])
    assert (mx.nd.load(str(path))["arg:w"].asnumpy() == VALUES["arg:w"]).all()
    arguments, _ = untrusted.read_arrays(str(path))
    np.testing.assert_array_equal(arguments["w"].asnumpy(), VALUES["arg:w"])


def test_arrays_cut_anywhere_are_refused(tmp_path):
    path = saved(tmp_path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="m-0000.params: not a checkpoint's parameters: "):
            untrusted.read_arrays(str(path))
    path.write_bytes(data + b"\0")
    with pytest.raises(InputError, match="1 bytes follow its end"):
        untrusted.read_arrays(str(path))


@pytest.mark.parametrize("place, form, value, message", [
    (0, "<Q", 0x113, "does not begin as one"),
    (16, "<Q", 1 << 60, "does not begin as one of MXNet|cut short|says that it has"),
    (24, "<I", 2, "does not begin as one of MXNet 1.x"),
    (28, "<i", 1, "sparse"), (28, "<i", -1, "sparse"),
    (32, "<I", 0, "0 dimensions"), (32, "<I", 0xFFFFFFFF, "4294967295 dimensions"),
    (36, "<q", 1 << 40, "too short"), (36, "<q", -2, "too short"), (36, "<q", 0, "too short"),
    (44, "<q", (1 << 63) - 1, "too short"), (60, "<i", 99, "unknown type 99"),
    (60, "<i", 7, "unknown type 7"), (88, "<Q", 2, "not one name an array"),
    (96, "<Q", 1 << 50, "a name is"), (104, "<B", 0xFF, "a name is not text"),
])
def test_numbers_that_mxnet_would_believe(tmp_path, place, form, value, message):
    path = saved(tmp_path, {"arg:w": VALUES["arg:w"]})
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, place, value)
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        untrusted.read_arrays(str(path))


@pytest.mark.parametrize("name", ["w", "arg:", "opt:w", ":w"])
def test_names_say_what_they_are(tmp_path, name):
    with pytest.raises(InputError, match="does not begin with arg: or aux:"):
        untrusted.read_arrays(str(saved(tmp_path, {name: VALUES["arg:w"]})))


def test_a_name_occurs_once(tmp_path):
    path = saved(tmp_path, {"arg:v": VALUES["arg:w"], "arg:w": VALUES["arg:w"]})
    path.write_bytes(path.read_bytes().replace(b"arg:v", b"arg:w"))
    with pytest.raises(InputError, match="'arg:w' occurs twice"):
        untrusted.read_arrays(str(path))


def trained():
    return heads.softmax_head(networks.get_symbol("n8", 16), mx.sym.Variable("softmax_label"), 9,
                               16)


def read(tmp_path, document):
    path = tmp_path / "m-symbol.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return untrusted.read_symbol(str(path))


def test_the_embedding_of_a_trained_network(tmp_path):
    symbol = trained()
    embedding = symbol.get_internals()["fc1_output"]
    found = read(tmp_path, symbol.tojson())
    assert found.list_outputs() == ["fc1_output"]
    assert found.list_arguments() == embedding.list_arguments()
    assert found.list_auxiliary_states() == embedding.list_auxiliary_states()
    assert found.infer_shape(data=(2, 3, 32, 32)) == embedding.infer_shape(data=(2, 3, 32, 32))


@pytest.mark.parametrize("network", sorted(fresnet.NETWORKS))
def test_every_network_of_ours_is_known(tmp_path, network):
    for options in ({}, {"depthwise_prelu": False}, {"version_se": 1}, {"version_act": "relu"}):
        symbol = networks.get_symbol(network, **options)
        assert read(tmp_path, symbol.tojson()).list_arguments() == symbol.list_arguments()


def test_the_head_is_not_looked_at(tmp_path):
    document = json.loads(trained().tojson())
    for node in document["nodes"]:
        if node["name"] in ("softmax", "logits"):
            node["op"] = "Custom"
    assert read(tmp_path, document).list_outputs() == ["fc1_output"]


def test_attributes_as_older_versions_write_them(tmp_path):
    document = json.loads(trained().tojson())
    for node in document["nodes"]:
        attributes = node.pop("attrs", {})
        node["param"] = attributes if node["op"] != "null" else {}
        node["attr"] = {"lr_mult": "0.1", "ctx_group": "0"}
        if node["op"] == "null":
            node["attr"].update(attributes)
    assert read(tmp_path, document).list_arguments() == \
        trained().get_internals()["fc1_output"].list_arguments()


def conv(document):
    return next(node for node in document["nodes"] if node["op"] == "Convolution")


CHANGES = [  # how the document changes; what is said of it
    (lambda d: conv(d).update(op="Custom"), "is a 'Custom', an operator that"),
    (lambda d: conv(d).update(op="_cvimread"), "is a '_cvimread', an operator that"),
    (lambda d: conv(d)["attrs"].update(stride="(0, 1)"), r"stride of .* is '\(0, 1\)', not 1 to"),
    (lambda d: conv(d)["attrs"].update(num_group="0"), "num_group of .* is '0', not 1 to"),
    (lambda d: conv(d)["attrs"].update(kernel="(-3, 3)"), r"kernel of .* is '\(-3, 3\)'"),
    (lambda d: conv(d)["attrs"].update(pad="(9999999, 1)"), "pad of .* not 0 to 1024"),
    (lambda d: conv(d)["attrs"].update(num_filter="9" * 400), "num_filter of .* is '999"),
    (lambda d: conv(d)["attrs"].update(num_filter=16), "attributes of .* are not text"),
    (lambda d: conv(d)["attrs"].update(nonsense="1"), "MXNet says: .*nonsense"),
    (lambda d: conv(d)["inputs"].pop(), "has 1 inputs"),
    (lambda d: conv(d)["inputs"][0].__setitem__(0, 10 ** 9), "inputs of .* do not exist"),
    (lambda d: conv(d)["inputs"][0].__setitem__(0, -1), "inputs of .* do not exist"),
    (lambda d: conv(d)["inputs"][0].__setitem__(0, len(d["nodes"]) - 1), "inputs of .* do not ex"),
    (lambda d: conv(d)["inputs"][0].__setitem__(1, 5), "inputs of .* do not exist"),
    (lambda d: conv(d)["inputs"][0].__setitem__(0, True), "inputs of .* do not exist"),
    (lambda d: conv(d).update(name=""), "no proper name"),
    (lambda d: conv(d).update(name="a$b"), r"layer 'a\$b' has a dollar sign"),
    (lambda d: conv(d).update(name=d["nodes"][0]["name"]), "two layers have one name"),
    (lambda d: conv(d).pop("op"), "lacks an op, a name or inputs"),
    (lambda d: d["nodes"][0].update(inputs=[[0, 0, 0]]), "inputs of .* do not exist"),
    (lambda d: d.pop("nodes"), "no list of nodes"),
    (lambda d: [node.update(name="x" + node["name"]) for node in d["nodes"]],
     "0 layers called fc1"),
    (lambda d: next(node for node in d["nodes"] if node["name"] == "data").update(name="date"),
     r"fc1 does not depend on pictures \(data\)"),
]


@pytest.mark.parametrize("change, message", CHANGES)
def test_what_mxnet_would_follow(tmp_path, change, message):
    document = json.loads(trained().tojson())
    change(document)
    with pytest.raises(InputError, match="m-symbol.json: not the symbol of an embedding network: "
                                         ".*" + message):
        read(tmp_path, document)


@pytest.mark.parametrize("text", ["", "x", "[", "[" * 100000, "[1e", "\ufeff{}", "{" * 100000])
def test_what_is_not_json(tmp_path, text):
    with pytest.raises(InputError, match="it is not JSON"):
        read(tmp_path, text)


def test_what_a_variable_says_of_itself_is_dropped(tmp_path):
    document = json.loads(trained().tojson())
    for node in document["nodes"]:
        if node["op"] == "null":
            node.setdefault("attrs", {}).update(
                __init__='["load", {"path": "/etc/passwd"}]', __shape__="(" * 200, ctx_group="dev1")
    found = read(tmp_path, document)
    assert not any(found.attr_dict().get(name, {}).keys() & {"__init__", "__shape__", "ctx_group"}
                   for name in found.list_arguments())
