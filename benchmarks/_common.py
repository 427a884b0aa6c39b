"""What the speed comparisons share: peers in turn, medians, ratios."""
import os
import statistics
import time
from typing import List, NamedTuple


class Rates(NamedTuple):
    """What one peer did in each round."""

    wall: List[float]  # things a second
    cpu: List[float]  # microseconds of processor time a thing, of all threads


def timed(work):
    """A peer for :func:`alternate` of ``work``, which returns how many things it did."""
    def peer():
        wall, processor = time.perf_counter(), time.process_time()
        count = work()
        return count, time.perf_counter() - wall, time.process_time() - processor
    return peer


def alternate(peers, rounds):
    """Call every peer once a round, in turn, so that all meet the same machine.

    Parameters
    ----------
    peers : dict
        Name -> function that does the work, is warm already, and returns how many things it did,
        in how many seconds, and in how many of processor time.
    rounds : int

    Returns
    -------
    dict
        Name -> :class:`Rates` of ``rounds`` values each.
    """
    rates = {name: Rates([], []) for name in peers}
    for number in range(1, rounds + 1):
        for name, peer in peers.items():
            count, seconds, processor = peer()
            rates[name].wall.append(count / seconds)
            rates[name].cpu.append(processor / count * 1e6)
        print("round {} (load {:.1f}): {}".format(
            number, os.getloadavg()[0],
            ", ".join("{} {:,.1f}".format(name, rate.wall[-1]) for name, rate in rates.items())),
            flush=True)
    return rates


def table(rates, things):
    """Print each peer's median, range, and processor time."""
    width = max(map(len, rates))
    for name, (wall, cpu) in rates.items():
        print("{:{}}  {:>9,.1f} {}/s ({:,.1f} to {:,.1f}), {:,.0f} us of processor time each"
              .format(name, width, statistics.median(wall), things, min(wall), max(wall),
                      statistics.median(cpu)))


def compare(rates, ours, peer, goal):
    """Print how many times faster ``ours`` is than ``peer``, and the goal.

    The median of the rounds' own ratios: what slows the whole machine for a while falls on both.
    """
    ratio = statistics.median(a / b for a, b in zip(rates[ours].wall, rates[peer].wall))
    print("{} / {}: {:.2f} (goal {:.2f}, {}); by processor time {:.2f}".format(
        ours, peer, ratio, goal, "met" if ratio >= goal else "missed",
        statistics.median(rates[peer].cpu) / statistics.median(rates[ours].cpu)))
