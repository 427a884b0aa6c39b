"""Results as text, JSON and plots."""
import json
import math

import numpy as np
import pytest

from unequal.errors import InputError
from unequal.report import tables


def test_columns_are_aligned_and_lines_end_with_text():
    assert tables.text_table(["name", "a", "long"], [["x", "10", ""], ["longer", "1", "2"]]) == (
        "name     a  long\nx       10\nlonger   1     2")


@pytest.mark.parametrize("value, digits, text", [
    (0.98765, 2, "98.77"), (1, 0, "100"), (math.nan, 2, "-"), (0.00049, 1, "0.0")])
def test_percent(value, digits, text):
    assert tables.percent(value, digits) == text


def test_what_json_lacks_becomes_null(tmp_path):
    path = tmp_path / "x.json"
    tables.write_json(str(path), {"a": math.nan, "b": {"c": math.nan, "d": 1.5}, "e": "ä"})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": None, "b": {"c": None, "d": 1.5}, "e": "ä"}


@pytest.mark.parametrize("name, begin", [("x.svg", b"<?xml"), ("x.PNG", b"\x89PNG")])
def test_the_ending_is_the_format(tmp_path, name, begin):
    pytest.importorskip("matplotlib")
    path = tmp_path / name
    tables.plot_lines(str(path), {"one": (np.array([0, 0.1, 1]), np.array([0, 0.5, 1]))},
                      xlabel="FAR", ylabel="TAR")
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize("name", ["x", "x.txt", "x.exe"])
def test_no_format_is_said_before_the_work(name):
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match=f"^{name}: no plot format; end the name in .png"):
        tables.check_plot(name)
