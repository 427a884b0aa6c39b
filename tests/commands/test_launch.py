"""unequal launch and its keepers; jobs that train are in test_distributed.py."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from helpers import jobs
from unequal.cluster import job as job_engine
from unequal.cluster import keeper
from unequal.cluster.job import read_hosts
from unequal.commands import cli
from unequal.errors import InputError
from unequal.system import progress

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
    assert process.returncode == -signal.SIGKILL


def test_a_keeper_passes_sigterm_on():
    process = keep(sys.executable, "-c", "import signal, sys, time\n"
                   "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
                   "print('ready', flush=True)\ntime.sleep(1000)")
    assert process.stdout.readline() == "ready\n"
    process.stdin.write(".T")
    process.stdin.flush()
    assert process.wait(20) == 75
    process.communicate()


def test_a_keeper_ends_when_told_so_though_its_input_stays_open():
    process = keep(*SLEEP)
    process.stdin.write("..E")
    process.stdin.flush()
    assert process.wait(20) == 1
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
                          ("a..b\n", "host a..b is unknown: not a name"),
                          ("\xff\n", r"host \\xff is unknown"),
                          ("no.such.host.invalid\n", "host no.such.host.invalid is unknown")):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=message):
            read_hosts(str(path))
    path.unlink()
    os.mkfifo(path)  # must not be waited for
    with pytest.raises(InputError, match="is not a plain file"):
        read_hosts(str(path))


@pytest.mark.parametrize("arguments, message", [
    (("-n", "0"), "--workers must be above 0"),
    (("-n", "1", "-s", "0"), "--servers must be above 0"),
    (("-n", "1", "--address", "192.0.2.1"), "--address 192.0.2.1: .*; give an address of this"),
    (("-n", "1", "--hosts", "nowhere"), "nowhere: No such file"),
    (("-n", "1", "--launcher", "mpi"), "--launcher mpi needs --hosts"),
    (("-n", "1", "--launcher", "mpi", "--hosts", "ported"), "ported: localhost has a port"),
    (("-n", "1", "--launcher", "mpi", "--hosts", "hosts"), "there is no mpirun on the PATH"),
])
def test_bad_input(arguments, message, capsys, tmp_path, monkeypatch):
    (tmp_path / "ported").write_text("localhost:22\n")
    (tmp_path / "hosts").write_text("localhost\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
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
def pretend(tmp_path, monkeypatch):
    """Puts an `ssh` or `mpirun` on the PATH that notes its arguments and runs the line here."""
    def put(name):
        script = tmp_path / "bin" / name
        script.parent.mkdir()
        calls = str(tmp_path / "calls")
        script.write_text(f"#!{sys.executable}\nimport os, sys\n"
                          f"print(*sys.argv[1:-1], file=open({calls!r}, 'a'))\n"
                          "os.chdir('/')\n"
                          "os.execle('/bin/sh', 'sh', '-c', sys.argv[-1], {'HOME': '/'})\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize("launcher, program, hosts, calls, message", [
    ("ssh", "ssh", "localhost:22\nme@localhost\n", ("-p 22 localhost", "me@localhost"),
     "could not be reached or was cut off (ssh ended with 255); the rest"),
    ("mpi", "mpirun", "localhost\n127.0.0.1 slots=4\n",
     ("-n 1 --bind-to none --host localhost sh -c", "--host 127.0.0.1 sh -c"),
     "ended with exit code 255; the rest"),
])
def test_other_hosts(launcher, program, hosts, calls, message, tmp_path, pretend, monkeypatch,
                     launch):
    """Directory, variables and quoting arrive; a code of 255 is ssh's, where there is one."""
    pretend(program)
    (tmp_path / "hosts").write_text(hosts)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MXNET_TEST", "it's $HOME")
    show = ("import os, sys\nopen('worker' + os.environ['DMLC_TASK_ID'], 'w').write(repr(("
            "sys.argv[1:], os.environ['MXNET_TEST'], os.environ['DMLC_NODE_HOST'])))\n"
            "sys.exit(255)")
    job = launch("-n", "2", "--hosts", "hosts", "--launcher", launcher, "--", sys.executable, "-c",
                 show, "a b", "'", PATH=os.environ["PATH"], MXNET_TEST=os.environ["MXNET_TEST"])
    errors = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    assert message in errors
    for number in range(2):
        if (tmp_path / f"worker{number}").exists():  # the first to end may end the other
            assert eval((tmp_path / f"worker{number}").read_text()) == (
                ["a b", "'"], "it's $HOME", "127.0.0.1")
    noted = (tmp_path / "calls").read_text().splitlines()
    assert all(any(line.endswith(call) for line in noted) for call in calls)
    assert list(tmp_path.glob("worker?"))


STEPS = ("import sys, unequal, mxnet as mx, time\n"
         "store = mx.kv.create('dist_sync')\n"
         "store.init('a', mx.nd.zeros(4))\n"
         "for _ in range(int(sys.argv[1])):\n"
         "    value = mx.nd.ones(4)\n"
         "    store.pushpull('a', value)\n"
         "    assert value.asnumpy().tolist() == [2] * 4\n"
         "    time.sleep(0.02)\n")


@pytest.fixture
def by_mpirun(tmp_path, launch):
    """Starts two workers that make so many steps, by the MPI that is there."""
    if not shutil.which("mpirun"):
        pytest.skip("needs mpirun")
    (tmp_path / "hosts").write_text("127.0.0.1\n")
    return lambda steps: launch("-n", "2", "--hosts", str(tmp_path / "hosts"), "--launcher", "mpi",
                                "--", sys.executable, "-c", STEPS, steps, **jobs.MPI_AS_ROOT)


@pytest.mark.mpi
def test_a_job_by_mpirun(by_mpirun):
    job = by_mpirun("20")
    errors = job.communicate(timeout=120)[1]
    assert job.returncode == 0, errors


@pytest.mark.mpi
@pytest.mark.parametrize("victim", ["worker", "launcher"])
def test_a_job_by_mpirun_ends_as_a_whole(victim, by_mpirun):
    job = by_mpirun("100000")
    members = jobs.wait_for(lambda: len(jobs.members(job)) == 4 and jobs.members(job), "all")
    everything = jobs.descendants(job.pid)
    if victim == "launcher":
        job.kill()
        job.communicate()
    else:
        os.kill(next(one.pid for one in members if (one.role, one.number) == ("worker", 1)),
                signal.SIGKILL)
        errors = job.communicate(timeout=60)[1]
        assert job.returncode == 1
        assert "worker 1 of 2 on 127.0.0.1 was killed by SIGKILL" in errors.splitlines()[-1]
    jobs.wait_for(lambda: not jobs.running(everything), "the end of all", 60)


def test_a_killed_launcher_leaves_nobody_behind(launch):
    job = launch("-n", "1", "--", *SLEEP)
    jobs.wait_for(lambda: len(jobs.members(job)) == 3, "three processes")
    everything = jobs.descendants(job.pid)
    job.kill()
    job.communicate(timeout=60)
    jobs.wait_for(lambda: not jobs.running(everything), "the end of all", 20)
    assert job.returncode == -signal.SIGKILL and len(everything) >= 3


# What moves on and what does not

REPORTING = """
import os, signal, sys, time
for _ in range(4):
    os.write(int(os.environ["UNEQUAL_PROGRESS_PIPE"]), b".")
    time.sleep(0.3)
if sys.argv[1] == "stop":
    os.kill(os.getpid(), signal.SIGSTOP)
elif sys.argv[1] == "hang":
    time.sleep(1000)
"""


@pytest.mark.parametrize("last, code, message", [
    ("end", 0, ""),
    ("stop", keeper.HUNG, r"process \d+ has been stopped \(SIGSTOP\) for 0.8 s"),
    ("hang", keeper.HUNG, r"process \d+ has made no progress for \d(\.\d+)? s"),
])
def test_a_keeper_ends_what_does_not_move_on(last, code, message, monkeypatch):
    monkeypatch.setenv(keeper.TIMEOUT, "0.8")
    process = keep(sys.executable, "-c", REPORTING, last)
    assert process.wait(40) == code
    assert re.search(message, process.communicate()[1])


def test_work_and_waiting_are_reported(monkeypatch):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    monkeypatch.setattr(progress, "_reports", writer)
    monkeypatch.setattr(progress, "_last_report", 0.0)
    with progress.Bar(None, "batches", "batches") as bar:
        bar.update()
        bar.update()
    assert os.read(reader, 100) == b"."  # not more than twice a second
    with progress.waiting():
        time.sleep(1.3)
    assert len(os.read(reader, 100)) in (1, 2)
    os.close(reader)
    monkeypatch.setattr(progress, "_last_report", 0.0)
    progress.report()  # the keeper has gone: nothing happens
    assert progress._reports is None
    os.close(writer)


@pytest.mark.parametrize("bounded", (True, False))
def test_a_wait_that_outlasts_every_hang(bounded, monkeypatch):
    """Whoever hangs has been ended by then: a server hangs, and this worker's keeper must know."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    monkeypatch.setattr(progress, "_reports", writer)
    monkeypatch.setattr(progress, "_last_report", 0.0)
    monkeypatch.setattr(progress, "_hang_timeout", 0.01)
    with progress.waiting(bounded):
        time.sleep(1.3)
    assert len(os.read(reader, 100)) == (1 if bounded else 2)
    os.close(reader)
    os.close(writer)


def test_a_command_that_reports_nothing_is_left_alone(monkeypatch):
    monkeypatch.setenv(keeper.TIMEOUT, "0.3")
    process = keep(sys.executable, "-c", "import time; time.sleep(1.5)")
    assert process.wait(40) == 0
    process.communicate()


def test_a_stopped_server_ends_the_job_by_name(launch):
    job = launch("-n", "1", "--hang-timeout", "1", "--", *SLEEP)
    jobs.wait_for(lambda: len(jobs.members(job)) == 3, "three processes")
    everything = jobs.descendants(job.pid)
    os.kill(next(one.pid for one in jobs.members(job) if one.role == "server"), signal.SIGSTOP)
    errors = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    assert errors.splitlines()[-1] == (
        "error: server 0 of 1 made no progress (its line above says how long); the rest of the "
        "job was ended. Start it again with --resume auto to continue after the last saved state.")
    assert jobs.running(everything) == []


def test_workers_that_do_not_stop_are_ended_after_the_deadline(launch):
    job = launch("-n", "1", "--stop-timeout", "0.5", "--", sys.executable, "-c",
                 "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                 "time.sleep(1000)")
    jobs.wait_for(lambda: len(jobs.members(job)) == 3, "three processes")
    everything = jobs.descendants(job.pid)
    time.sleep(0.5)  # until the signal is ignored
    job.terminate()
    errors = job.communicate(timeout=30)[1]
    assert job.returncode == 1
    assert "SIGTERM: worker 0 of 1 had not saved and stopped after 0.5 s" in errors
    assert jobs.running(everything) == []


def test_a_second_signal_ends_stopped_workers_too(launch):
    job = launch("-n", "1", "--", *SLEEP)
    members = jobs.wait_for(lambda: len(jobs.members(job)) == 3 and jobs.members(job), "all")
    everything = jobs.descendants(job.pid)
    for one in members:
        os.kill(one.pid, signal.SIGSTOP)
    job.terminate()
    time.sleep(1)
    job.terminate()
    begin = time.monotonic()
    job.communicate(timeout=30)
    jobs.wait_for(lambda: not jobs.running(everything), "the end of all", 10)
    assert time.monotonic() - begin < 10


COUNTING = """
import os, signal, sys
with open(sys.argv[1], "a") as file:
    print(*sys.argv[3:], file=file)
with open(sys.argv[1]) as file:
    starts = len(file.readlines())
if starts <= int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kills, code", [(1, 0), (2, 1)])
def test_restarts(kills, code, tmp_path, monkeypatch, capsys):
    """Each a whole job; a kill more than there are restarts is an error."""
    monkeypatch.setattr(job_engine, "SHUTDOWN", 0.1)  # nobody waits for this worker
    starts = tmp_path / "starts"
    assert cli.main(["launch", "-n", "1", "--restarts", "1", "--", sys.executable, "-c", COUNTING,
                     str(starts), str(kills), "--lr", "1"]) == code
    assert starts.read_text().splitlines() == ["--lr 1", "--lr 1 --resume auto"]
    assert ("error: worker 0 of 1 was killed by SIGKILL" in capsys.readouterr().err) == bool(code)


def test_a_refused_command_line_is_not_started_again(tmp_path, capsys):
    assert cli.main(["launch", "-n", "1", "--restarts", "5", "--", sys.executable, "-c",
                     "import sys; open(sys.argv[1], 'a').write('x'); sys.exit(2)",
                     str(tmp_path / "starts")]) == 1
    assert (tmp_path / "starts").read_text() == "x"
