"""Names of classes, and tables that may be opened in a spreadsheet; names made to escape from the
folder: tests/whole/test_hostile.py."""
import pytest

from unequal.data.identities import read_names, write_names, write_table
from unequal.errors import InputError


def test_names_survive(tmp_path):
    names = ["Ann", "Bob, \"the\" 2nd", "two\nlines", "=SUM(A1)", "'=quoted", "Zoë", "n\udcff", " "]
    write_names(str(tmp_path), names)
    assert read_names(str(tmp_path)) == dict(enumerate(names))


def test_a_name_is_no_formula_in_the_file(tmp_path):
    write_names(str(tmp_path), ["=HYPERLINK(1)", "-5"])
    assert (tmp_path / "identities.csv").read_text() == "label,name\n0,'=HYPERLINK(1)\n1,-5\n"


def test_no_file_is_no_names(tmp_path):
    assert read_names(str(tmp_path)) == {}


def test_names_of_some_classes_in_any_order_and_more_columns(tmp_path):
    (tmp_path / "identities.csv").write_text("name,note,label\nb,x,7\na,,0\n")
    assert read_names(str(tmp_path)) == {7: "b", 0: "a"}


def test_a_table_without_rows_is_no_file(tmp_path):
    path = tmp_path / "table.csv"
    write_table(str(path), ("a", "b"), [])
    assert not path.exists()
    write_table(str(path), ("a", "b"), [(1, "x")])
    assert path.read_text() == "a,b\n1,x\n"
    write_table(str(path), ("a", "b"), [])  # an earlier one would be of other data
    assert not path.exists()


@pytest.mark.parametrize("text, said", [
    ("key,name\n0,a\n", "expected lines of `label,name`"),
    ("label,name\none,a\n", "expected lines of `label,name`"),
    ("label,name\n-1,a\n", "expected lines of `label,name`"),
    ("label,name\n99999999999,a\n", "expected lines of `label,name`"),
    ("label,name\n0\n", "expected lines of `label,name`"),
    ("label,name\n0,a\n1,a\n", "two classes have the same name"),
    ("label,name\n3,\n", "the name '' of class 3 is not that of a folder"),
    ("label,name\n3,..\n", "the name '..' of class 3 is not that of a folder"),
])
def test_a_damaged_file_is_one_sentence(tmp_path, text, said):
    (tmp_path / "identities.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        read_names(str(tmp_path))
    assert str(raised.value).startswith(f"{tmp_path}/identities.csv: {said}")
    assert str(raised.value).endswith("correct or remove the file.")
