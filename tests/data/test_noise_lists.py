"""What says which images are noise: every format, both ways."""
import numpy as np
import pytest

from unequal.data import noise_lists
from unequal.errors import InputError

COLUMNS = {"label": np.array([7, 3, 3]), "key": np.array([1, 2, 40]),
           "max_probability": np.array([0.1, 1 / 3, 2e-9], np.float32),
           "label_probability": np.array([0.05, 0.0, 1e-9], np.float32),
           "score": np.array([-1.0, 0.25, 1 / 3]), "prediction": np.array([7, 5, 0])}


def test_a_list_is_written_and_read(tmp_path):
    path = tmp_path / "0_noiselist.txt"
    (tmp_path / ".0_noiselist.txt.4711").write_text("of a writer that was killed")
    noise_lists.write_list(str(path), COLUMNS, np.array([True, False, True]))
    lines = path.read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["7", "1"], ["3", "40"]]
    for line, row in zip(lines, (0, 2)):  # every digit of the probabilities
        assert [np.float32(number) for number in line.split()[2:]] == [
            COLUMNS["max_probability"][row], COLUMNS["label_probability"][row]]
    labels, keys = noise_lists.read_list(str(path))
    assert labels.tolist() == [7, 3] and keys.tolist() == [1, 40]
    assert labels.dtype == keys.dtype == np.int64
    assert [name.name for name in tmp_path.iterdir()] == [path.name]


def test_a_list_as_the_reference_writes_it(tmp_path):
    path = tmp_path / "list"
    path.write_text("17.0 2045.0 0.0031 0.0002\n\n  3 9\n")
    labels, keys = noise_lists.read_list(str(path))
    assert labels.tolist() == [17, 3] and keys.tolist() == [2045, 9]
    path.write_text("")
    assert [len(part) for part in noise_lists.read_list(str(path))] == [0, 0]


@pytest.mark.parametrize("line", ["0", "0 1 0", "0 1 0 0 0", "a 1 0 0", "0 1.5 0 0", "nan 1 0 0",
                                  "0 inf 0 0", "0 1e300 0 0"])
def test_lines_that_make_no_sense(tmp_path, line):
    path = tmp_path / "list"
    path.write_text("0 1 0 0\n" + line + "\n")
    with pytest.raises(InputError, match="list, line 2: expected `label index maxP"):
        noise_lists.read_list(str(path))


def scores(path):
    head = noise_lists.scores_head("what it belongs to")
    path.write_bytes(head + noise_lists.score_rows(
        [COLUMNS[name] for name in noise_lists.COLUMNS]))
    return head


def test_scores_are_written_and_read(tmp_path):
    path = tmp_path / "scores.csv"
    scores(path)
    found = noise_lists.read_scores(str(path))
    assert tuple(found) == noise_lists.COLUMNS
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(found[name], column)  # floats too: every digit is written
        assert found[name].dtype == (np.int64 if column.dtype.kind == "i" else np.float64)


def test_an_interrupted_file_goes_on_after_its_last_whole_row(tmp_path):
    path = tmp_path / "scores.csv"
    assert noise_lists.resume_scores(str(path), b"x") == 0  # there is none
    head = scores(path)
    whole = path.read_bytes()
    assert noise_lists.resume_scores(str(path), head) == 3
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    assert noise_lists.resume_scores(str(path), head) == 2
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])
    other = noise_lists.scores_head("something else")
    assert noise_lists.resume_scores(str(path), other) == 0
    path.write_bytes(head + b"7,1")
    assert noise_lists.resume_scores(str(path), head) == 0
    assert path.read_bytes() == head


@pytest.mark.parametrize("old, new", [
    (b"# what", b"what"), (b"label,key", b"key,label"), (b"\n7,1,", b"\n7,"), (b"0.25", b"x"),
    (b"7,1", b"\xff,1")])
def test_what_is_no_file_of_scores(tmp_path, old, new):
    path = tmp_path / "scores.csv"
    scores(path)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(InputError, match="scores.csv: not a whole file of scores"):
        noise_lists.read_scores(str(path))


def test_truth_is_written_and_read(tmp_path):
    path = str(tmp_path / "truth.csv")
    noise_lists.write_truth(path, [1, 2, 5], [0, 0, 1], [0, -1, 0], ["clean", "outlier", "flip"])
    assert noise_lists.read_truth(path) == {1: (0, "clean"), 2: (-1, "outlier"), 5: (0, "flip")}


@pytest.mark.parametrize("text", ["key,label\n1,0\n", "key,label,true_identity,kind\nx,0,0,clean\n",
                                  "key,label,true_identity,kind\n1,0\n"])
def test_what_is_no_truth(tmp_path, text):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(InputError, match="truth.csv: expected the columns key, label"):
        noise_lists.read_truth(str(tmp_path / "truth.csv"))


def test_names_mean_every_name_that_ends_in_them(tmp_path):
    path = tmp_path / "noise.txt"
    path.write_text("# comment\np1_0.png\n\n7\tp2/p2_1.jpg\nnobody.jpg\nx/p1_1.png\n")
    entries = noise_lists.read_names(str(path))
    assert entries == ["p1_0.png", "p2/p2_1.jpg", "nobody.jpg", "x/p1_1.png"]
    noisy, unknown = noise_lists.noisy(
        ["p1/p1_0.png_r50.bin", "p1/p1_1.png", "s/p2/p2_1.png", "p3/p2_1.png", "p1/p1_0x"], entries)
    assert noisy.tolist() == [True, False, True, False, False]
    assert unknown == 2
    names = [f"A.J._Buckley/A.J._Buckley_{number}.png{ending}"
             for number in (1, 2) for ending in ("", "_r50.bin", ".bin")]
    noisy, unknown = noise_lists.noisy(names, ["A.J._Buckley_2.JPEG"])
    assert noisy.tolist() == [False] * 3 + [True] * 3 and unknown == 0


def test_a_path_is_no_formula(tmp_path):
    noise_lists.write_table(str(tmp_path / "F.csv"), [(3, "=1+1/a.jpg", 0, "flip", 1, "0.9")])
    assert (tmp_path / "F.csv").read_text().splitlines()[1] == "3,'=1+1/a.jpg,0,flip,1,0.9"
