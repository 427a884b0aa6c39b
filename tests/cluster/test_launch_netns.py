"""A host that is cut off from the others: two network namespaces, an sshd in each.

    python -m pytest -m netns tests/test_launch_netns.py

Needs root, iproute2, ssh and sshd (or its path in SSHD).
"""
import getpass
import os
import shutil
import subprocess
import sys
import time

import pytest

from helpers import jobs

pytestmark = pytest.mark.netns

HERE, THERE = "10.213.77.1", "10.213.77.2"
PORT = "2222"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def namespaces():
    """Names of two namespaces that reach each other, and nothing else."""
    names = [f"unequal-{letter}-{os.getpid()}" for letter in "ab"]
    ends = [f"veth-{letter}-{os.getpid() % 10000}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(names, ends, (HERE, THERE)):
            ip("link", "set", end, "netns", name)
            for arguments in (("addr", "add", address + "/24", "dev", end),
                              ("link", "set", end, "up"), ("link", "set", "lo", "up")):
                ip("-n", name, *arguments)
        yield names, ends
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name])


@pytest.fixture
def sshds(namespaces, tmp_path):
    """An sshd in each; PATH with an `ssh` that knows their keys."""
    sshd = os.environ.get("SSHD") or shutil.which("sshd")
    if not sshd:
        pytest.skip("needs sshd")
    os.makedirs("/run/sshd", exist_ok=True)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
                        str(tmp_path / key)], check=True)
    config, started = tmp_path / "sshd_config", []
    config.write_text(f"Port {PORT}\nHostKey {tmp_path}/host\nAuthorizedKeysFile "
                      f"{tmp_path}/user.pub\nPermitRootLogin yes\nStrictModes no\nUsePAM no\n"
                      "PidFile none\n")
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f"#!/bin/sh\nexec {shutil.which('ssh')} -F none -i {tmp_path}/user -l "
                   f"{getpass.getuser()} -o StrictHostKeyChecking=no -o "
                   f"UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o Port={PORT} \"$@\"\n")
    ssh.chmod(0o755)
    for name in namespaces[0]:
        started.append(subprocess.Popen(["ip", "netns", "exec", name, sshd, "-D", "-e", "-f",
                                         str(config)], stderr=subprocess.DEVNULL))
    time.sleep(1)
    yield f"{ssh.parent}:{os.environ['PATH']}"
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("launcher", ["ssh", pytest.param("mpi", marks=pytest.mark.mpi)])
def test_a_host_that_is_cut_off(launcher, namespaces, sshds, tmp_path):
    names, ends = namespaces
    port = ":" + PORT if launcher == "ssh" else ""  # the pretended ssh gives mpirun's its port
    (tmp_path / "hosts").write_text(f"{HERE}{port}\n{THERE}{port}\n")
    work = ("import unequal, mxnet as mx, time\n"
            "store = mx.kv.create('dist_sync')\n"
            "store.init('a', mx.nd.zeros(4))\n"
            "while True:\n"
            "    value = mx.nd.ones(4)\n"
            "    store.pushpull('a', value)\n"
            "    print(store.rank, value.asnumpy(), flush=True)\n"
            "    time.sleep(0.1)\n")
    job = subprocess.Popen(
        ["ip", "netns", "exec", names[0], sys.executable, "-m", "unequal", "launch", "-n", "2",
         "--hosts", str(tmp_path / "hosts"), "--launcher", launcher, "--", sys.executable, "-c",
         work], env=dict(jobs.ENVIRONMENT, PATH=sshds, **jobs.MPI_AS_ROOT),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    try:
        for line in job.stdout:  # both compute
            if "[2. 2. 2. 2.]" in line:
                break
        else:
            pytest.fail(job.communicate()[1])
        pids = {name: [int(pid) for pid in subprocess.check_output(
            ["ip", "netns", "pids", name]).split()] for name in names}
        theirs = [pid for pid in pids[names[1]] if jobs.is_member(pid)]
        ours = [pid for pid in pids[names[0]] if jobs.is_member(pid)]
        assert (len(ours), len(theirs)) == (3, 2)  # the scheduler is with the launcher
        for name, address, members in zip(names, (HERE, THERE), (ours, theirs)):
            listening = subprocess.check_output(
                ["ip", "netns", "exec", name, "ss", "-Hltnp"], universal_newlines=True)
            # MPI's daemons listen everywhere; that is theirs.
            assert {line.split()[3].rpartition(":")[0] for line in listening.splitlines()
                    if any(f"pid={pid}," in line for pid in members)} == {address}

        ip("-n", names[1], "link", "set", ends[1], "down")
        start = time.monotonic()
        errors = job.communicate(timeout=60)[1]
        print(f"the launcher ended after {time.monotonic() - start:.1f} s")
        assert job.returncode == 1
        message = errors.splitlines()[-1]
        assert f" on {THERE} " in message, errors
        assert launcher != "ssh" or "could not be reached or was cut off (ssh " in message, errors
        assert not jobs.running(ours)
        jobs.wait_for(lambda: not jobs.running(theirs), "the end on the other host",
                      60 - (time.monotonic() - start))
        print(f"the other host's processes ended after {time.monotonic() - start:.1f} s")
    finally:
        job.kill()
        job.communicate()
