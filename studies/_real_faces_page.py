"""Tables and pictures of docs/study.md, from the result lines of real_faces.py."""
import statistics
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from _real_faces_arms import ARMS, EARLY, LISTS, TARGETS, Key, unpacked

MARK = "<!-- written by studies/real_faces.py --page -->\n"
CONTROL = "continued"  # as many updates as the other arms, every label trusted
TAIL_CONTROL = "tail, weight 0"
EARLY_SUFFIX = ", early"  # of arms that begin with the model half-way; their control has it too
REPLICATES = 2000
PAIRS = 2100  # in each report set: three splits of CFP
# (without margin, with margin), per cent of the clean images; the study's own condition.
REGIME = {True: (95.0, 60.0), False: (90.0, 40.0)}

Line = Dict[str, Any]
Lines = Dict[Key, Line]


class Difference(NamedTuple):
    """Points by which one arm is better than another, and a 95% interval."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def right_pairs(line: Line, targets: Sequence[str] = TARGETS) -> np.ndarray:
    """Which pairs of the report sets an arm decided rightly: bool, all sets in a row."""
    return np.concatenate([unpacked(line["right"][name], PAIRS) for name in targets])


def final(line: Line) -> Line:
    """The numbers of the last checkpoint: what later arms start from."""
    return line.get("last", line)


def difference(lines: Lines, kind: str, rate: float, arm: str, control: str,
               of: Callable[[Line], Line] = dict, seed: int = 0,
               targets: Sequence[str] = TARGETS) -> Optional[Difference]:
    """Paired difference of two arms over the seeds both have.

    The interval is a bootstrap over seeds and, within, over pairs (the same pairs for all seeds,
    as they are the same pictures). With one seed it holds for that training run only. ``of``
    picks the checkpoint: the chosen one, or :func:`final`.
    """
    rows = []
    for key, line in sorted(lines.items()):
        if (key.kind, key.rate, key.arm) == (kind, rate, arm):
            other = lines.get(key._replace(arm=control))
            if other:
                rows.append(right_pairs(of(line), targets).astype(np.int8)
                            - right_pairs(of(other), targets))
    if not rows:
        return None
    table = np.array(rows)
    random = np.random.default_rng(seed)
    means = [100 * table[random.integers(len(table), size=len(table))][
        :, random.integers(table.shape[1], size=table.shape[1])].mean()
        for _ in range(REPLICATES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(100 * float(table.mean()), low, high, len(table))


def mean(line: Line) -> float:
    """Mean accuracy over the report sets."""
    return statistics.mean(line["report"][name] for name in TARGETS)


def _spread(values: Sequence[Optional[float]], form: str = ".1f") -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    deviation = f" ± {statistics.stdev(known):{form}}" if len(known) > 1 else ""
    return f"{statistics.mean(known):{form}}{deviation}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def control_of(arm: str) -> str:
    """The arm of equal updates from the same checkpoint that uses neither method nor list."""
    control = TAIL_CONTROL if ARMS[arm].tail else CONTROL
    early = arm.endswith(EARLY_SUFFIX) or ARMS[arm].start
    return control + EARLY_SUFFIX if early else control


def start_of(lines: Lines, key: Key) -> Optional[Line]:
    """The numbers of the checkpoint that an arm began from."""
    line = lines.get(key._replace(arm=ARMS[key.arm].parent or ""))
    if line is None or ARMS[key.arm].start != "early":
        return line and final(line)
    flags = ARMS[line["arm"]].flags
    step = EARLY * int(flags[flags.index("--verbose") + 1])
    return {"training": next(point for point in line["curve"] if point["step"] == step)}


def _of(lines: Lines, kind: str, rate: float, arm: str) -> List[Line]:
    return [line for key, line in sorted(lines.items())
            if (key.kind, key.rate, key.arm) == (kind, rate, arm)]


def cells(lines: Lines) -> List[Tuple[str, float]]:
    """Kinds and rates that have any line."""
    return sorted({(key.kind, key.rate) for key in lines}, reverse=True)


def regime(lines: Lines) -> str:
    """How well the ArcFace models know their clean training images."""
    rows = []
    for kind, rate in cells(lines):
        for line in _of(lines, kind, rate, "ArcFace"):
            known = final(line)["training"]
            plain, margin = known["recognised"], known["recognised_margin"]
            wanted = REGIME[rate == 0]
            rows.append([kind, f"{100 * rate:.0f}%", str(line["seed"]),
                         f"{plain:.1f} (≥ {wanted[0]:.0f})",
                         f"{margin:.1f} (≥ {wanted[1]:.0f})",
                         "yes" if plain >= wanted[0] and margin >= wanted[1] else "no"])
    return markdown(["flips", "rate", "seed", "to their label, no margin, %", "with margin, %",
                     "in the regime"], rows)


def results(lines: Lines, kind: str, rate: float, arms: Sequence[str]) -> str:
    """All arms of one kind and rate of noise."""
    rows = []
    for arm in arms:
        of = _of(lines, kind, rate, arm)
        if not of:
            continue
        control = control_of(arm)
        gains = ["" if arm == control else str(
            difference(lines, kind, rate, arm, control, which) or "") for which in (dict, final)]

        def column(key: str, of: List[Line] = of) -> str:
            return _spread([final(line).get("training", {}).get(key) for line in of])

        rows.append([arm, str(len(of)), *(
            _spread([line["report"][name] for line in of]) for name in TARGETS),
            _spread([mean(line) for line in of]), gains[0],
            _spread([mean(final(line)) for line in of]), gains[1],
            column("recognised"), column("wrong"), column("right"), column("differ_right")])
    return markdown(["arm", "seeds", "FF", "FP", "mean", "against its control", "last: mean",
                     "last: against its control", "clean known", "flips believed",
                     "flips: right person", "second term right"], rows)


def starts(lines: Lines) -> str:
    """What the methods gain over more of the same, from the last model and half-way."""
    rows = []
    for kind, rate in cells(lines):
        for early in ARMS:
            control = control_of(early)
            if not control.endswith(EARLY_SUFFIX) or early == control:
                continue
            arm = early.replace(EARLY_SUFFIX, "")
            late = arm if arm != early else ""  # the drop of sub-centers has one form, half-way
            gains = [difference(lines, kind, rate, name, against, final, targets=targets)
                     for name, against in ((late, control.replace(EARLY_SUFFIX, "")),
                                           (early, control))
                     for targets in (TARGETS[:1], TARGETS)]
            if any(gains):
                seeds = "/".join(str(gain.seeds) if gain else "0" for gain in gains[::2])
                rows.append([kind, f"{100 * rate:.0f}%", arm, seeds,
                             *(str(gain or "") for gain in gains)])
    return markdown(["flips", "rate", "arm", "seeds", "from the last: FF", "FF and FP",
                     "from half-way: FF", "FF and FP"], rows)


def lists(lines: Lines) -> str:
    """Precision and recall of the noise lists."""
    rows = []
    for kind, rate in cells(lines):
        for name in LISTS:
            found = {}
            for key, line in sorted(lines.items()):
                if (key.kind, key.rate) == (kind, rate) and name in line["lists"]:
                    found[key.seed] = line["lists"][name]
            if found:
                rows.append([kind, f"{100 * rate:.0f}%", name, str(len(found)), *(
                    _spread([facts[what] for facts in found.values()], form)
                    for what, form in (("listed", ".0f"), ("precision", ".2f"),
                                       ("recall", ".2f")))])
    return markdown(["flips", "rate", "list", "seeds", "listed", "precision", "recall"], rows)


def missing(lines: Lines, wanted: Sequence[Key]) -> str:
    """What the study lacks, by kind and rate, with hours from the lines that are there.

    Lines that were made beside other work took up to ten times as long, so an arm's time is the
    lower quartile of its lines.
    """
    taken: Dict[str, List[float]] = {}
    for key, line in lines.items():
        taken.setdefault(key.arm, []).append(line["seconds"])
    times = {arm: sorted(seconds)[len(seconds) // 4] for arm, seconds in taken.items()}
    usual = statistics.median(times.values()) if times else 0
    left = [key for key in wanted if key not in lines]
    rows = []
    for kind, rate in dict.fromkeys((key.kind, key.rate) for key in wanted):
        some = [key for key in left if (key.kind, key.rate) == (kind, rate)]
        total = sum((key.kind, key.rate) == (kind, rate) for key in wanted)
        hours = sum(times.get(key.arm, usual) for key in some) / 3600
        rows.append([kind, f"{100 * rate:.0f}%", str(total - len(some)), str(len(some)),
                     f"{hours:.1f}"])
    table = markdown(["flips", "rate", "lines there", "missing", "hours for them"], rows)
    return f"{len(wanted) - len(left)} of {len(wanted)} lines are there.\n\n{table}"


def _axes(width: float = 7.5, height: float = 4.5, columns: int = 1) -> Tuple[Any, Any]:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(width, height), constrained_layout=True)


def _whole_curve(line: Line) -> List[Line]:
    """The kept checkpoints of a line and, where it is another one, the last."""
    points = {point["step"]: point for point in line["curve"]}
    flags = ARMS[line["arm"]].flags
    step = int(flags[flags.index("--max-steps") + 1])
    return [*points.values()] + [dict(final(line)["training"], step=step)] * (step not in points)


def plot_curve(lines: Lines, path: Path) -> bool:
    """ArcFace along its training: what it knows, and how often NRA's second term would be right."""
    curves = [(key, dict(line, curve=_whole_curve(line)))
              for key, line in sorted(lines.items()) if line.get("curve")]
    if not curves:
        return False
    figure, (left, right) = _axes(10, 4.2, 2)
    for key, line in curves:
        name = f"{key.kind} {100 * key.rate:.0f}%, seed {key.seed}"
        steps = [point["step"] for point in line["curve"]]
        knows = [point["recognised_margin"] for point in line["curve"]]
        left.plot(steps, [point["recognised"] for point in line["curve"]], "--",
                  color=f"C{len(left.lines) // 2}")
        left.plot(steps, knows, marker="o", color=left.lines[-1].get_color(), label=name)
        points = [(point["recognised_margin"], point["differ_right"]) for point in line["curve"]
                  if point["differ_right"] is not None]
        if key.rate and points:
            right.plot(*zip(*points), marker="o", label=name)
    left.set(xlabel="batches after the margin came", ylim=(0, 101),
             ylabel="clean images given to their label, %\n(dashed: without margin)")
    right.axhline(50, color="grey", linewidth=1)
    right.set(xlabel="clean images given to their label, with margin, %", ylim=(0, 100),
              ylabel="predictions unlike the label\nthat are right, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(str(path), dpi=110)
    return True


def plot_gain(lines: Lines, path: Path, title: str, of: Callable[[Key], bool],
              across: Callable[[Line], Optional[float]], xlabel: str) -> bool:
    """Gain of each line over its control, over a property of the model it started from."""
    points: Dict[str, List[Tuple[float, float]]] = {}
    for key, line in sorted(lines.items()):
        other = lines.get(key._replace(arm=control_of(key.arm)))
        start = start_of(lines, key)
        if other and start and of(key):
            value = across(start)
            if value is not None:
                points.setdefault(key.arm, []).append(
                    (value, mean(final(line)) - mean(final(other))))
    if not points:
        return False
    figure, axes = _axes()
    for arm, some in points.items():
        axes.plot(*zip(*some), "o", label=arm, alpha=0.8)
    axes.axhline(0, color="grey", linewidth=1)
    axes.set(xlabel=xlabel, title=title,
             ylabel="points above the control, last checkpoints")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(str(path), dpi=110)
    return True


def write(lines: Lines, wanted: Sequence[Key], docs: Path) -> None:
    """The part of docs/study.md below its mark, and the pictures."""
    arms = list(dict.fromkeys(key.arm for key in wanted))
    parts = ["## What is there, and what is missing", missing(lines, wanted),
             "`make study FACES='--lfw LFW --cfp CFP --protocol DIR'` does what is missing, line "
             "by line, in as many sittings as it takes; hours are of one process on one thread, "
             "by the lines of each arm that were made without much other work.",
             "## The regime", regime(lines)]
    pictures = (
        (plot_curve(lines, docs / "study_curve.png"), "study_curve.png", "ArcFace in training"),
        (plot_gain(lines, docs / "study_gain.png", "What NRA gains",
                   lambda key: key.arm.startswith("NRA"),
                   lambda start: start["training"]["recognised_margin"],
                   "ArcFace before: clean images given to their label, with margin, %"),
         "study_gain.png", "Gain of NRA over the start's training accuracy"),
        (plot_gain(lines, docs / "study_tail.png", "What the tail gains",
                   lambda key: ARMS[key.arm].tail and key.arm != control_of(key.arm),
                   lambda start: start["tail_cosine"],
                   "NRA before: mean cosine of two images of a tail person"),
         "study_tail.png", "Gain of the tail over its tightness"))
    parts += [f"![{text}]({name})" for there, name, text in pictures if there]
    parts += ["## What is gained over more of the same, by where it begins",
              "Points above *continued* (half-way: above *continued, early*), last checkpoints.",
              starts(lines)]
    for kind, rate in cells(lines):
        parts += [f"## {kind.capitalize()} flips, {100 * rate:.0f}%",
                  results(lines, kind, rate, arms)]
    parts += ["## The noise lists", lists(lines)]
    page = docs / "study.md"
    before = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else ""
    page.write_text(before + MARK + "\n" + "\n\n".join(parts) + "\n", encoding="utf-8")
