import os

from unequal import runtime


def test_prepare_leaves_the_users_thread_count(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    runtime.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "7"
