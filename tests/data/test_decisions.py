"""The file of decisions: only growing, whole after a kill, shared by several writers."""
import subprocess
import sys
import threading

import pytest

from unequal.data.decisions import Decision, DecisionFile, read_decisions
from unequal.errors import InputError


def test_the_last_line_of_a_key_counts(tmp_path):
    path = str(tmp_path / "new" / "decisions.csv")
    file = DecisionFile(path)
    for decision in (Decision(5, "drop"), Decision(6, "relabel", 2), Decision(5, "keep")):
        file.append(decision)
    assert open(path).read() == "key,decision,label\n5,drop,\n6,relabel,2\n5,keep,\n"
    assert read_decisions(path) == {5: Decision(5, "keep"), 6: Decision(6, "relabel", 2)}


def test_a_line_cut_by_a_kill_is_replaced(tmp_path, caplog):
    path = tmp_path / "decisions.csv"
    path.write_text("key,decision,label\n5,drop,\n6,rela")
    assert read_decisions(str(path)) == {5: Decision(5, "drop")}
    assert "decisions.csv: the last line is left out" in caplog.text  # a person's may be whole
    caplog.clear()
    DecisionFile(str(path)).append(Decision(7, "keep"))
    assert path.read_text() == "key,decision,label\n5,drop,\n7,keep,\n"
    assert len(read_decisions(str(path))) == 2 and not caplog.text


def test_two_files_of_one_path_see_each_other(tmp_path):
    one, other = (DecisionFile(str(tmp_path / "d.csv")) for _ in range(2))
    one.append(Decision(1, "drop"))
    other.append(Decision(2, "keep"))
    assert [decision.key for decision in one.read()] == [2]
    assert one.last == other.last


def test_many_writers_lose_nothing(tmp_path):
    path = str(tmp_path / "d.csv")

    def write(first):
        file = DecisionFile(path)
        for key in range(first, first + 20):
            file.append(Decision(key, "drop"))

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_decisions(path)) == [100 * n + k for n in range(4) for k in range(20)]


def test_a_kill_loses_no_decision(tmp_path):
    path = str(tmp_path / "d.csv")
    code = ("import sys, unequal\n"
            "from unequal.data.decisions import Decision, DecisionFile\n"
            "file = DecisionFile(sys.argv[1])\n"
            "for key in range(10**6):\n"
            "    file.append(Decision(key, 'drop'))\n"
            "    print(key, flush=True)\n")
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    for _ in range(5):
        said = int(process.stdout.readline())
    process.kill()
    rest = process.stdout.read().split()
    process.wait()
    said = max([said, *map(int, rest)])
    assert set(range(said + 1)) <= set(read_decisions(path))


@pytest.mark.parametrize("line", [
    "x,drop,", "5,burn,", "5,relabel,", "5,drop,3", "-1,drop,", "5,relabel,-2", "5,drop", "5",
    "5,relabel,99999999999", "\0,\0,\0"])
def test_a_line_that_makes_no_sense(tmp_path, line):
    path = tmp_path / "d.csv"
    path.write_text("key,decision,label\n1,keep,\n" + line + "\n")
    with pytest.raises(InputError, match=r"d.csv, line 3: expected `key,decision,label`"):
        read_decisions(str(path))


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="none.csv: no such file; `unequal review` writes one"):
        read_decisions(str(tmp_path / "none.csv"))
