"""The table of backbones: what --network takes, and that reading it needs no MXNet."""
import subprocess
import sys

import pytest

from unequal.errors import InputError
from unequal.symbols import fresnet, networks


def test_every_row_of_fresnet_is_in_the_table():
    assert {name for name, module in networks.MODULES.items()
            if module == "fresnet"} == set(fresnet.NETWORKS)


def test_names_stand_once():
    names = [name for family in networks.FAMILIES for name in family.names]
    assert len(names) == len(set(names)) == len(networks.MODULES)


@pytest.mark.parametrize("name", [family.names[0] for family in networks.FAMILIES])
def test_every_family_builds_its_embedding(name):
    symbol = networks.get_symbol(name, 8)
    assert symbol.list_outputs() == ["fc1_output"]
    assert symbol.infer_shape(data=(2, 3, 112, 112))[1] == [(2, 8)]


@pytest.mark.parametrize("arguments, text", [
    (dict(network="r51"),
     f"network 'r51' is unknown; known are {', '.join(networks.MODULES)}."),
    (dict(version_output="K"),
     "version_output 'K' is unknown; known are E, F, G, H, I, FC, J, GAP."),
    (dict(version_output="Z"),
     "version_output 'Z' is not supported: its features, (channels, height, width), fit no "
     "classifier of emb_size columns; use E."),
    (dict(version_input=2), "version_input 2 is unknown; known are 0, 1."),
    (dict(version_act="gelu"), "version_act 'gelu' is unknown; known are prelu, relu."),
    (dict(version_unit=1), "version_unit 1 is unknown; known are 3."),
    (dict(version_se=2), "version_se 2 is unknown; known are 0, 1."),
])
def test_unknown_values_answer_with_the_known(arguments, text):
    with pytest.raises(InputError) as error:
        networks.get_symbol(**arguments)
    assert str(error.value) == text


def test_the_table_is_read_without_mxnet():
    """`unequal doctor` must run where MXNet does not."""
    code = ("import sys; sys.argv = ['unequal']; from unequal.training import config; "
            "assert 'mxnet' not in sys.modules; print(config.SoftmaxConfig().network)")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE,
                          universal_newlines=True, timeout=60)
    assert done.stdout == "r50\n"
