"""unequal launch and its keepers; jobs that train are in test_distributed.py."""
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jobs
import pytest

from unequal import cli, keeper
from unequal.errors import InputError
from unequal.launch import read_hosts

SLEEP = (sys.executable, "-c", "import time; time.sleep(1000)")


def keep(*command):
    return subprocess.Popen([sys.executable, keeper.__file__, *command], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            universal_newlines=True)


def test_a_keeper_passes_exit_codes_on():
    for code, expected in (("import sys; sys.exit(3)", 3),
                           ("import os; os.kill(os.getpid(), 9)", 137)):
        process = keep(sys.executable, "-c", code)
        assert process.wait(20) == expected
        process.communicate()
    process = keep("no-such-command")
    assert "no-such-command: No such file" in process.communicate()[1]
    assert process.returncode == 127


def test_a_keeper_ends_its_command_with_all_it_has_started_when_the_launcher_is_gone():
    process = keep("sh", "-c", "sleep 1000 & sleep 1000")
    pids = jobs.wait_for(lambda: len(jobs.descendants(process.pid)) == 3 and
                         jobs.descendants(process.pid), "the command")
    process.communicate(timeout=20)  # closes its standard input
    assert process.returncode == 1
    assert jobs.running(pids) == []


def test_a_killed_keeper_takes_its_command_with_it():
    process = keep(*SLEEP)
    pids = jobs.wait_for(lambda: jobs.descendants(process.pid), "the command")
    process.kill()
    process.communicate()
    jobs.wait_for(lambda: not jobs.running(pids), "its end", 20)


def test_a_keeper_passes_sigterm_on():
    process = keep(sys.executable, "-c", "import signal, sys, time\n"
                   "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
                   "print('ready', flush=True)\ntime.sleep(1000)")
    assert process.stdout.readline() == "ready\n"
    process.stdin.write(".T")
    process.stdin.flush()
    assert process.wait(20) == 75
    process.communicate()


def test_silence_ends_it(monkeypatch, capfd):
    reader, writer = os.pipe()
    stdin = os.dup(0)
    previous = {number: signal.getsignal(number)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    os.dup2(reader, 0)
    monkeypatch.setattr(keeper, "SILENCE", 0.3)
    try:
        assert keeper.keep(list(SLEEP)) == 1
    finally:
        os.dup2(stdin, 0)
        for number in (reader, writer, stdin):
            os.close(number)
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert "nothing heard from the launcher for 0.3 s; ended" in capfd.readouterr().err


def test_hosts(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("localhost slots=8\n\n# a comment\nme@127.0.0.1:2222  # and another\n")
    assert read_hosts(str(path)) == [("localhost", None, "127.0.0.1"),
                                            ("me@127.0.0.1", "2222", "127.0.0.1")]
    for text, message in (("\n", "no hosts; write one a line"),
                          ("-oProxyCommand=x\n", "expected HOST or HOST:PORT"),
                          ("localhost:ssh\n", "expected HOST or HOST:PORT"),
                          ("localhost\n192.0.2.1\n", "localhost stands for 127.0.0.1 on this"),
                          ("no.such.host.invalid\n", "host no.such.host.invalid is unknown")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_hosts(str(path))


@pytest.mark.parametrize("arguments, message", [
    (("-n", "0"), "--workers must be above 0"),
    (("-n", "1", "-s", "0"), "--servers must be above 0"),
    (("-n", "1", "--address", "192.0.2.1"), "--address 192.0.2.1: .*; give an address of this"),
    (("-n", "1", "--hosts", "nowhere"), "nowhere: No such file"),
])
def test_bad_input(arguments, message, capsys):
    assert cli.main(["launch", *arguments, "--", *SLEEP]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_the_command_is_everything_behind_two_dashes(capsys):
    parser = cli.build_parser(["launch"])
    options = parser.parse_args(["launch", "-n", "2", "--", "python", "-u", "x.py", "--lr", "1"])
    assert options.command == ["python", "-u", "x.py", "--lr", "1"]
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(["launch", "-n", "2"])
    assert exit_.value.code == 2


@pytest.fixture
def pretended_ssh(tmp_path, monkeypatch):
    """An `ssh` that notes its arguments and runs the line here, as sshd would: by a shell."""
    script = tmp_path / "bin" / "ssh"
    script.parent.mkdir()
    script.write_text("#!{}\nimport os, sys\n"
                      "print(*sys.argv[1:-1], file=open({!r}, 'a'))\n"
                      "os.chdir('/')\n"
                      "os.execle('/bin/sh', 'sh', '-c', sys.argv[-1], {{'HOME': '/'}})\n".format(
                          sys.executable, str(tmp_path / "calls")))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "{}:{}".format(script.parent, os.environ["PATH"]))
    return tmp_path / "calls"


def test_other_hosts_are_reached_by_ssh(tmp_path, pretended_ssh, monkeypatch, launch):
    """Directory, variables and quoting arrive; a code of 255 is ssh's."""
    (tmp_path / "hosts").write_text("localhost:22\nme@localhost\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MXNET_TEST", "it's $HOME")
    show = ("import os, sys\nopen('worker' + os.environ['DMLC_TASK_ID'], 'w').write(repr(("
            "sys.argv[1:], os.environ['MXNET_TEST'], os.environ['DMLC_NODE_HOST'])))\n"
            "sys.exit(255)")
    job = launch("-n", "2", "--hosts", "hosts", "--", sys.executable, "-c", show, "a b", "'",
                      PATH=os.environ["PATH"], MXNET_TEST=os.environ["MXNET_TEST"])
    errors = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    assert "could not be reached or was cut off (ssh ended with 255); the rest" in errors
    for number in range(2):
        if (tmp_path / "worker{}".format(number)).exists():  # the first to end may end the other
            assert eval((tmp_path / "worker{}".format(number)).read_text()) == (
                ["a b", "'"], "it's $HOME", "127.0.0.1")
    calls = pretended_ssh.read_text().splitlines()
    assert any(call.endswith("-p 22 localhost") for call in calls)
    assert any(call.endswith("me@localhost") for call in calls)
    assert list(Path(str(tmp_path)).glob("worker?"))


def test_a_killed_launcher_leaves_nobody_behind(launch):
    job = launch("-n", "1", "--", *SLEEP)
    jobs.wait_for(lambda: len(jobs.members(job)) == 3, "three processes")
    everything = jobs.descendants(job.pid)
    job.kill()
    job.communicate(timeout=60)
    jobs.wait_for(lambda: not jobs.running(everything), "the end of all", 20)
