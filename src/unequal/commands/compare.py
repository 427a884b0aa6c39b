"""``unequal compare``: curves and tables of several runs on one page."""
import argparse
import math
import os
from typing import Any, Dict, List, NamedTuple, Tuple

from unequal.errors import InputError
from unequal.report import page, stages, tables
from unequal.report.page import Html, join, tag
from unequal.report.runs import Event, Run
from unequal.system.files import replacing
from unequal.system.text import say

# Options that only say where files are.
_PLACES = frozenset(("prefix", "data_dir", "data_dir_interclass", "eval_dir", "log_dir", "log_file",
                     "bin_dir", "pretrained", "noise_list", "truth", "resume", "debug"))


class Training(NamedTuple):
    """One row of one run."""

    name: str
    accuracies: Dict[str, float]
    events: List[Event]

    @property
    def options(self) -> Dict[str, Any]:
        """What it was started with; empty when the log does not tell."""
        return self.events[0].get("options", {}) if self.events else {}


def short_names(directories: List[str]) -> List[str]:
    """The last part of each path, or as many last parts as make the names different."""
    parts = [os.path.abspath(directory).split(os.sep) for directory in directories]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names


def trainings(directories: List[str]) -> List[Training]:
    """The trainings of several run directories, each named after its directory and its row.

    Raises
    ------
    InputError
        When a directory is no run, or is given twice.
    """
    if len({os.path.realpath(directory) for directory in directories}) < len(directories):
        raise InputError("the same run is given twice; leave one out.")
    found = []
    for directory, short in zip(directories, short_names(directories)):
        run = Run(directory)
        for row, events in zip(run.rows, run.logs):
            found.append(Training(f"{short}: {row['name']}", row["accuracies"], events))
    return found


def accuracy_table(found: List[Training]) -> Html:
    """Best accuracies, batches and time of each training."""
    targets = list(dict.fromkeys(target for one in found for target in one.accuracies))

    def row(one: Training) -> Tuple[Html, ...]:
        rates = [one.accuracies.get(target, math.nan) for target in targets]
        known = [rate for rate in rates if not math.isnan(rate)]
        mean = sum(known) / len(known) if known and len(known) == len(targets) else math.nan
        batches = max((event.get("step", 0) for event in one.events), default=0)
        return (tag("td", one.name), *(tag("td", tables.percent(rate)) for rate in (*rates, mean)),
                tag("td", f"{batches:,}"), tag("td", stages.clock(stages.duration(one.events))))

    return join(
        tag("p", "Verification accuracy, mirror images added, at each training's best verification "
                 "by the mean. Runs on different sets cannot be compared by it."),
        page.table(["verification, %", *targets, "mean", "batches", "time"], map(row, found)))


def differences(found: List[Training]) -> Html:
    """The settings in which the trainings differ; empty when they do not."""
    options = [one.options for one in found]
    names = sorted({name for known in options for name in known} - _PLACES)
    differing = [name for name in names
                 if len({repr(known.get(name)) for known in options}) > 1]
    if not differing:
        return Html()
    return join(
        tag("p", "A dash: the training does not have this setting."),
        page.table(["setting", *(one.name for one in found)], [
            (tag("td", "--" + name.replace("_", "-")),
             *(tag("td", known.get(name, "-")) for known in options)) for name in differing]))


def _series(found: List[Training]) -> List[Tuple[str, str, List[Tuple[int, List, List]]]]:
    """Charts: title, y label, and ``(line, x, y)`` of each training that has it."""
    charts: Dict[Tuple[str, str], List[Tuple[int, List, List]]] = {}
    for line, one in enumerate(found):
        verified = [(event["step"], [rate for result in event["results"].values()
                                     for rate in [result.get("accuracy_flip", math.nan)]])
                    for event in one.events if event["event"] == "verify" and event["results"]]
        if verified:
            charts.setdefault(("mean verification", "accuracy, %"), []).append(
                (line, [step for step, _ in verified],
                 [100 * sum(rates) / len(rates) for _, rates in verified]))
        trained = [event for event in one.events if event["event"] == "train"]
        for losses in ({"acc": "accuracy on the training batches"}, *stages.SHOWN_LOSSES):
            for name, title in losses.items():
                points = [(event["step"], event["metrics"][name]) for event in trained
                          if not math.isnan(event["metrics"].get(name, math.nan))]
                if points:
                    x, y = zip(*points)
                    steps, values = page.thinned(x, y)
                    charts.setdefault((title, "loss" if "loss" in title else "share"), []).append(
                        (line, list(steps), page.smoothed(values)))
                    break
    return [(title, unit, lines) for (title, unit), lines in charts.items()]


def curves(found: List[Training]) -> Html:
    """One chart a quantity, one line a training."""
    charts = []
    for title, unit, lines in _series(found):
        def draw(axes: Any, color: Any, lines: Any = lines, unit: str = unit) -> None:
            for line, steps, values in lines:
                axes.plot(steps, values, color=color(line),
                          marker="." if len(steps) < 10 else None,
                          linestyle=page.DASHES[line // page.LINES % len(page.DASHES)])
            axes.set(xlabel="batches", ylabel=unit)

        charts.append(page.figure(title, page.chart(draw, f"{title} over batches")))
    if not charts:
        return Html()
    return join(tag("p", "Smoothed, but for verification. Losses of different stages are on "
                         "different scales."),
                page.legend([one.name for one in found]), tag("div", *charts, class_="charts"))


def render(directories: List[str]) -> str:
    """The page as text, the same for the same runs."""
    found = trainings(directories)
    parts = [("Accuracies", accuracy_table(found)), ("Curves", curves(found)),
             ("What differs", differences(found))]
    title = "Comparison of " + ", ".join(short_names(directories))
    return page.document(title, tag("h1", title), page.sections(
        (heading, made) for heading, made in parts if made),
        tag("footer", "Made by `unequal compare`; the page holds everything it shows and fetches "
                      "nothing."))


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal compare``."""
    parser.add_argument("directories", metavar="RUN", nargs="+",
                        help="directories of runs, as `unequal report` takes them")
    parser.add_argument("--out", metavar="FILE", default="compare.html",
                        help="page to write (default %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Write the page, print its path."""
    tables.new_figure(options.out)  # fails at once if matplotlib is missing
    text = render(options.directories)
    with replacing(options.out) as file:
        file.write(text)
    say(options.out)
