"""Shared by the speed benchmarks: run the peers in turn, print medians and ratios."""
import os
import statistics
import time
from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple

# Does some work; returns (items done, wall-clock seconds, seconds of processor time).
Peer = Callable[[], Tuple[int, float, float]]


class Rates(NamedTuple):
    """The speed of one peer, one value a round."""

    wall: List[float]  # items a second
    cpu: List[float]  # microseconds of processor time an item, all threads together


def timed(work: Callable[[], int]) -> Peer:
    """Make ``work``, which returns how many items it did, a peer for :func:`alternate`."""
    def peer() -> Tuple[int, float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        count = work()
        return count, time.perf_counter() - wall, time.process_time() - processor
    return peer


def alternate(peers: Mapping[str, Peer], rounds: int) -> Dict[str, Rates]:
    """Call every peer once a round, in turn, so that other load on the machine slows all alike.

    Parameters
    ----------
    peers : dict
        Name -> function that does the work (call it once before, as warm-up) and returns the
        number of items, the wall-clock seconds and the seconds of processor time.
    rounds : int
        How often each peer is called.

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
        figures = ", ".join(f"{name} {rate.wall[-1]:,.1f}" for name, rate in rates.items())
        print(f"round {number} (load {os.getloadavg()[0]:.1f}): {figures}", flush=True)
    return rates


def table(rates: Dict[str, Rates], things: str) -> None:
    """Print each peer's median, range, and processor time."""
    width = max(map(len, rates))
    for name, (wall, cpu) in rates.items():
        print(f"{name:{width}}  {statistics.median(wall):>9,.1f} {things}/s ({min(wall):,.1f} to "
              f"{max(wall):,.1f}), {statistics.median(cpu):,.0f} us of processor time each")


def compare(rates: Dict[str, Rates], ours: str, peer: str, goal: float,
            by_processor: bool = False) -> None:
    """Print how many times faster ``ours`` is than ``peer``, and whether that meets the goal.

    The ratio is taken in each round, and the median of these ratios is printed, because other load
    on the machine slows both peers of a round. ``by_processor``: the goal is for processor time,
    not for items a second.
    """
    rate = statistics.median(a / b for a, b in zip(rates[ours].wall, rates[peer].wall))
    processor = statistics.median(b / a for a, b in zip(rates[ours].cpu, rates[peer].cpu))
    verdict = "met" if (processor if by_processor else rate) >= goal else "missed"
    judged = f" (goal {goal:.2f}, {verdict})"
    print(f"{ours} / {peer}: {rate:.2f}{'' if by_processor else judged}; by processor time "
          f"{processor:.2f}{judged if by_processor else ''}")
