"""What the speed comparisons share: peers in turn, medians, ratios."""
import os
import statistics
import time
from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple

# Works, and returns how many things it did, in how many seconds, of processor time too.
Peer = Callable[[], Tuple[int, float, float]]


class Rates(NamedTuple):
    """What one peer did in each round."""

    wall: List[float]  # things a second
    cpu: List[float]  # microseconds of processor time a thing, of all threads


def timed(work: Callable[[], int]) -> Peer:
    """A peer for :func:`alternate` of ``work``, which returns how many things it did."""
    def peer() -> Tuple[int, float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        count = work()
        return count, time.perf_counter() - wall, time.process_time() - processor
    return peer


def alternate(peers: Mapping[str, Peer], rounds: int) -> Dict[str, Rates]:
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

    The median of the rounds' own ratios: what slows the whole machine for a while falls on both.
    ``by_processor``: the goal is for processor time, not for the rate.
    """
    rate = statistics.median(a / b for a, b in zip(rates[ours].wall, rates[peer].wall))
    processor = statistics.median(b / a for a, b in zip(rates[ours].cpu, rates[peer].cpu))
    verdict = "met" if (processor if by_processor else rate) >= goal else "missed"
    judged = f" (goal {goal:.2f}, {verdict})"
    print(f"{ours} / {peer}: {rate:.2f}{'' if by_processor else judged}; by processor time "
          f"{processor:.2f}{judged if by_processor else ''}")
