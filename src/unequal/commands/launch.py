"""``unequal launch``: one command as the workers of a job, here or on several hosts
(:mod:`unequal.cluster.job`)."""
import argparse

from unequal.cluster import job
from unequal.commands import arguments
from unequal.errors import ArgumentError
from unequal.system import interrupts


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal launch``."""
    count = arguments.integer(high=arguments.MAX_PROCESSES)
    parser.add_argument("-n", "--workers", type=count, required=True, help="worker processes")
    parser.add_argument("-s", "--servers", type=count,
                        help="server processes, which add up gradients; default: one a host")
    parser.add_argument("--hosts", metavar="FILE",
                        help="HOST or HOST:PORT a line; default: this machine")
    parser.add_argument("--launcher", choices=("ssh", "mpi"), default="ssh",
                        help="what starts processes on the hosts; default: ssh")
    parser.add_argument("--address", help="of this machine, for the scheduler to listen on; "
                                          f"default: {job.LOOPBACK}, with --hosts the one that "
                                          "reaches them")
    parser.add_argument("--hang-timeout", type=arguments.real(0), default=1800.0,
                        metavar="SECONDS",
                        help="end the job when a process makes no progress for so long (a batch, a "
                             "picture verified or mined); 0: never; default %(default)g")
    parser.add_argument("--stop-timeout", type=arguments.real(0, above=True), default=1800.0,
                        metavar="SECONDS",
                        help="how long workers may take to save and stop after a signal; default "
                             "%(default)g")
    parser.add_argument("--restarts", type=arguments.integer(0, 1000), default=0, metavar="N",
                        help="start the job again with --resume auto when a process is lost, at "
                             "most so often; default 0")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND",
                        help="with --kv-store dist_sync or dist_device_sync")


def run(options: argparse.Namespace) -> int:
    """Run the job; returns 0, or 75 when a signal made it save and stop."""
    hosts = job.read_hosts(options.hosts) if options.hosts else []
    servers = options.servers if options.servers is not None else len(hosts) or 1
    if options.launcher == "mpi":
        job.check_mpi(hosts, options.hosts)
    for name, value in (("workers", options.workers), ("servers", servers)):
        if value < 1:
            raise ArgumentError(f"{name} must be above 0.", name)
    with interrupts.caught():
        return job.run(options.command, options.workers, servers, hosts, options.launcher,
                       options.address, hang_timeout=options.hang_timeout,
                       deadline=options.stop_timeout, restarts=options.restarts)
