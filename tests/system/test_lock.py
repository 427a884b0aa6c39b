"""The lock that keeps a second run off a prefix; directories that survive a power failure."""
import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from unequal.system import files, progress

HOLD = "import sys, time; from unequal.system.files import Lock; lock = Lock(sys.argv[1]); " \
       "print('held', flush=True); time.sleep(100)"


def test_a_killed_process_leaves_nothing_locked(tmp_path):
    path = str(tmp_path / "new" / "model.lock")
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(files.Taken) as taken:
        files.Lock(path)
    assert str(taken.value) == f"process {other.pid} on {os.uname().nodename}"
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert os.path.exists(path)
    files.Lock(path).release()
    assert not os.path.exists(path)


def test_a_lock_is_given_back_and_removed(tmp_path):
    path = str(tmp_path / "a.lock")
    lock = files.Lock(path)
    with pytest.raises(files.Taken):
        files.Lock(path)
    lock.release()
    lock.release()
    assert os.listdir(tmp_path) == []
    files.Lock(path).release()


def test_what_stands_in_another_lock_is_only_shown_when_it_is_ours(tmp_path):
    path = str(tmp_path / "a.lock")
    lock = files.Lock(path)
    (tmp_path / "a.lock").write_bytes(b"\x1b[2J \xff and more")
    with pytest.raises(files.Taken, match="^another process$"):
        files.Lock(path)
    lock.release()
    os.symlink("/tmp/elsewhere", path)
    with pytest.raises(OSError):
        files.Lock(path)


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    files.Lock(str(tmp_path / "a.lock")).release()
    assert "a.lock: cannot be locked here (No locks available)" in caplog.text


def test_new_directories_are_flushed_from_above(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "_flush_directory", flushed.append)
    files.make_directory(str(tmp_path / "a" / "b"))
    assert flushed == [str(tmp_path), str(tmp_path / "a")]
    files.make_directory(str(tmp_path / "a" / "b"))
    files.make_directory("")
    assert len(flushed) == 2 and (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("seconds", [1e30, float("inf"), float("nan"), 1e17])
def test_an_end_beyond_the_calendar(seconds):
    assert progress.end_time(seconds) == "never"
    assert ":" in progress.end_time(10)
