import csv
import io

import pytest

from unequal.system.text import from_cell, plain, to_cell

NAMES = ("Ann Lee", "=1+1", "-2", "@x", "+49", "-x", "'-2", "'=1", "''-", "'quoted'",
         "\x1b[31mred", "a\nb", "a\r", "\u202egnp", "\udcff", "人 名", "\\x1b", "\\x5cx1b", "\\",
         "\\u12", "tab\there", "\u3000", "\U000e0001", "\\U00110000", "=\x1b", "\x85", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_gives_its_text_back(name):
    cell = to_cell(name)
    assert from_cell(cell) == name
    assert cell.isprintable() and (cell[:1] not in tuple("=+-@") or name in ("-2", "+49"))
    file = io.StringIO()
    csv.writer(file).writerow([cell, "next"])
    assert next(csv.reader(io.StringIO(file.getvalue()))) == [cell, "next"]


def test_ordinary_names_stay():
    for name in ("Ann Lee", "人 名", "Zoë_0001.jpg", "a-b=c", "\\\\server"):
        assert to_cell(name) == plain(name) == name


def test_nothing_a_terminal_obeys_is_left():
    assert plain("x\x1b[2J\nerror: y\u202e\udc80\x9b") == "x\\x1b[2J\\nerror: y\\u202e\\udc80\\x9b"
