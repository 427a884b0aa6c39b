"""Verification in training: which sets, which choice, and the numbers of the embedder itself."""
from argparse import Namespace

import mxnet as mx
import numpy as np
import pytest

from helpers.models import SIDE, png
from unequal.errors import ArgumentError, InputError
from unequal.eval import bins, verification
from unequal.models.embedder import Embedder, PictureList
from unequal.training.verifying import Verifier


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two verification sets of ten pairs each; returns their folder."""
    directory = tmp_path_factory.mktemp("sets")
    random = np.random.RandomState(0)
    for name in ("one", "two"):
        bins.save_bin(str(directory / (name + ".bin")),
                      [png(random.randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
                       for _ in range(20)], [True, False] * 5)
    return directory


def verifier(network, sets, target, select="mean", size=(SIDE, SIDE)):
    return Verifier(Namespace(data_dir=str(sets), eval_dir="", target=target, select=select),
                    network[0], size, [mx.cpu()])


def test_numbers_are_those_of_the_embedder(network, sets):
    results = verifier(network, sets, "two,one")(*network[1:])
    assert list(results) == ["two", "one"]
    pictures, issame = bins.load_bin(str(sets / "one.bin"))
    embedded = Embedder(*network, image_size=(SIDE, SIDE)).embed(PictureList(pictures, ""),
                                                                flip=True)
    expected = verification.evaluate(*embedded, issame)
    for key, value in vars(expected).items():
        np.testing.assert_allclose(getattr(results["one"], key), value, rtol=1e-4, err_msg=key)


def test_other_weights_other_numbers(network, sets):
    symbol, arg_params, aux_params = network
    verify = verifier(network, sets, "one")
    first = verify(arg_params, aux_params)["one"]
    other = {name: mx.nd.random.normal(shape=array.shape) if name.endswith("weight") else array
             for name, array in arg_params.items()}
    assert vars(verify(other, aux_params)["one"]) != vars(first)
    assert vars(verify(arg_params, aux_params)["one"]) == vars(first)


def test_no_set_is_no_number(network, sets, tmp_path):
    assert verifier(network, tmp_path, "one")(*network[1:]) == {}


@pytest.mark.parametrize("target, select, found", [
    ("one", "two", "one"), ("none", "none", "none"), ("two,one", "mena", "two, one")])
def test_the_choice_must_be_by_a_set_that_is_there(network, sets, target, select, found):
    with pytest.raises(ArgumentError) as raised:
        verifier(network, sets, target, select)
    assert str(raised.value) == (
        f"select {select} is not among the verification sets that were found ({found}); name one "
        "of them or `mean`.")
    assert raised.value.arguments == ("select",)


def test_pictures_of_another_size_are_named(network, sets, tmp_path):
    bins.save_bin(str(tmp_path / "large.bin"), [png(np.zeros((9, 9, 3), np.uint8))] * 20,
                  [True, False] * 5)
    with pytest.raises(InputError, match=r"large.bin: image 0|large.bin: record 0"):
        verifier(network, tmp_path, "large")(*network[1:])
