"""Input files: plain ones, of a length that can be (see also tests/whole/test_hostile.py)."""
import os
import signal
import subprocess
import sys

import pytest

from unequal.errors import InputError
from unequal.system import files
from unequal.system.files import bounded_lines, open_input, replacing


def test_only_plain_files(tmp_path):
    os.mkfifo(str(tmp_path / "pipe"))
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="is not a plain file; give one, or remove it.$"):
            open_input(str(path))
        with pytest.raises(InputError, match="is not a plain file; leave it out.$"):
            open_input(str(path), optional=True)
    with pytest.raises(IsADirectoryError):
        open_input(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_input(str(tmp_path / "nothing"))


def test_as_long_as_allowed(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"12345")
    with open_input(str(path), 5) as file:
        assert file.read() == b"12345"
    with open_input(str(path), encoding="ascii") as file:
        assert file.read() == "12345"
    with pytest.raises(InputError, match="has 5 bytes, more than 4; is it what it should be"):
        open_input(str(path), 4)
    with pytest.raises(InputError, match="more than 4; make it smaller or leave it out.$"):
        open_input(str(path), 4, optional=True)


def test_no_descriptor_is_left(tmp_path):
    os.mkfifo(str(tmp_path / "pipe"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(InputError):
            open_input(str(tmp_path / "pipe"))
        with pytest.raises(LookupError):
            open_input(__file__, encoding="no such encoding")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("how", [{}, {"encoding": "ascii"}])
def test_lines_of_a_bounded_length(tmp_path, how):
    path = tmp_path / "list"
    path.write_bytes(b"abcd\n\n" + b"x" * 20)
    with open_input(str(path), **how) as file:
        lines = bounded_lines(file, "list", 5)
        assert [len(next(lines)), len(next(lines))] == [5, 1]
        with pytest.raises(InputError, match="list, line 3: is longer than 5"):
            next(lines)


WRITE = """
import sys, time
from unequal.system.files import replacing
with replacing(sys.argv[1]) as file:
    file.write("half")
    file.flush()
    print("writing", flush=True)
    time.sleep(100)
"""


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    """What a living one writes stays, and so does what only looks alike."""
    path = str(tmp_path / "list.csv")
    dead, living = (subprocess.Popen([sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE)
                    for _ in range(2))
    for one in (dead, living):
        assert one.stdout.readline() == b"writing\n"
    dead.kill()
    dead.wait()
    (tmp_path / ".list.csv.7").mkdir()
    (tmp_path / ".other.csv.7").write_text("of another")
    os.symlink("/etc/hostname", str(tmp_path / ".list.csv.8"))
    files._temporaries.cache_clear()
    with replacing(path) as file:
        file.write("whole")
    assert sorted(os.listdir(str(tmp_path))) == sorted([
        f".list.csv.{living.pid}", ".list.csv.7", ".list.csv.8", ".other.csv.7", "list.csv"])
    os.kill(living.pid, signal.SIGKILL)
    living.wait()
    assert (tmp_path / "list.csv").read_text() == "whole"


def test_one_look_at_a_folder_of_many_files(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(os, "listdir", lambda path: looks.append(path) or [])
    for number in range(3):
        with replacing(str(tmp_path / f"{number}.jpg"), binary=True) as file:
            file.write(b"x")
    assert looks == [str(tmp_path)]


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_no_file_takes_a_devices_place(tmp_path, kind):
    # Root may rename a file to /dev/null, and whoever makes a pipe wants to read from it.
    path = str(tmp_path / "there")
    if kind == "device":
        os.symlink(os.devnull, path)
    else:
        os.mkfifo(path)
    before = os.lstat(path)
    with pytest.raises(InputError, match="there: is not a plain file"), files.replacing(path):
        pass
    assert os.path.samestat(os.lstat(path), before)
    assert os.listdir(str(tmp_path)) == ["there"]


def test_a_temporary_folder_goes_whatever_happens(tmp_path):
    left = tmp_path / ".out.unequal.17"
    (left / "half").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), files.temporary_folder(f"{tmp_path}/out/") as folder:
        open(os.path.join(folder, "file"), "w").close()
        assert os.listdir(str(tmp_path)) == [f".out.unequal.{os.getpid()}"]
        raise KeyboardInterrupt
    assert os.listdir(str(tmp_path)) == []


def test_a_signal_as_soon_as_the_file_is_there(tmp_path, monkeypatch):
    def interrupted(*_):
        assert len(os.listdir(str(tmp_path))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(files.fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(str(tmp_path / "list")):
        pass
    assert os.listdir(str(tmp_path)) == []
