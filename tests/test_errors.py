"""Errors that a user reads."""
import pickle

import pytest

from unequal.errors import ArgumentError, InputError, install_hint, lookup


def test_lookup_lists_what_is_known():
    table = {"r18": 18, 50: "fifty"}
    assert lookup(table, "r18", "network") == 18 and lookup(table, 50, "network") == "fifty"
    with pytest.raises(ArgumentError) as raised:
        lookup(table, "r19", "network")
    assert str(raised.value) == "network 'r19' is unknown; known are r18, 50."
    assert raised.value.arguments == ("network",)


def test_an_argument_error_is_both_kinds_and_survives_a_process():
    error = ArgumentError("margin_s 0 must be above 0.", "margin_s")
    assert isinstance(error, InputError) and isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))  # as multiprocessing hands it on
    assert (type(again), str(again), again.arguments) == (
        ArgumentError, "margin_s 0 must be above 0.", ("margin_s",))


def test_the_hint_names_the_extra():
    assert install_hint("plots") == "install the extra [plots] (`pip install '.[plots]'`)"
