"""Sections of ``unequal report`` on how well the stages did: accuracies, learning curves, ROC."""
import math
import os
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from unequal.eval import verification
from unequal.report import page, tables
from unequal.report.page import INK, Html, join, tag
from unequal.report.runs import Run
from unequal.symbols.margins import LOSS_TYPES

# One sentence on what a stage does, by the step that its log names and its options.
LOSSES = {number: kind.title for number, kind in LOSS_TYPES.items()}


def _step_2(options: Dict[str, Any], loss: str) -> str:
    return f"{loss} on the head identities"


def _step_3(options: Dict[str, Any], loss: str) -> str:
    which = " without the noise list" if options.get("noise_list") else ""
    return (f"Noise-robust loss on the head identities{which}; {options['noise_beta']:.0%} of it "
            "asks for the given label, the rest for the label that the model itself predicts")


def _step_4(options: Dict[str, Any], loss: str) -> str:
    on_head = "noise-robust loss" if options["noise"] else loss
    chosen = "that the model confuses" if options["mining"] else "drawn at random"
    return (f"{options['batch_size1']} head and {options['batchsize_id']} tail images a batch; "
            f"{on_head} on the head, and a loss that drives apart the centres of tail identities "
            f"{chosen}")


# By the stage's name (unequal.training.stages); logs of older versions have only the title.
STEPS = {"softmax": _step_2, "nra_save": _step_3, "nra": _step_3, "unequal": _step_4}
TITLES = {"step 2": "softmax", "step 3": "nra", "step 4": "unequal"}


def _origin(options: Dict[str, Any], rows: List[Dict[str, Any]]) -> str:
    """Where a stage's weights come from, in words."""
    weights = str(options.get("interweight", "")).split(",")
    if len(weights) > 1 and not options["prefix"].endswith(f"_w{float(weights[0]):g}"):
        return "From the best model of the weights before"
    if not options["pretrained"]:
        return "From scratch"
    prefix, _, epoch = options["pretrained"].rpartition(",")
    for row in rows:
        model = row.get("model")
        if model and (options["pretrained"].endswith(model) or (
                epoch == "best" and prefix.endswith(model.rpartition(",")[0]))):
            return f"From “{row['name']}”"
    return "From " + "/".join(options["pretrained"].split("/")[-2:])


def described(events: List[Any], rows: List[Any]) -> Optional[str]:
    """One sentence on what a stage did, from its log; None where the log does not tell."""
    try:
        options = events[0]["options"]
        step = events[0].get("name") or TITLES[events[0]["stage"][:len("step 2")]]
        batches = max(event.get("step", 0) for event in events)
        did = STEPS[step](options, LOSSES[options["loss_type"]])
        count = f"{batches:,} {'batch' if batches == 1 else 'batches'}"
        return f"{_origin(options, rows)}, {count}. {did}."
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def accuracy_table(run: Run) -> Optional[Html]:
    """Accuracies, the best of each column marked, and what each row is."""
    if not run.targets:
        return None
    values = np.array([[row["accuracies"].get(target, math.nan) for target in run.targets]
                       for row in run.rows])
    values = np.column_stack([values, values.mean(axis=1)])
    # Rounded as printed, so that values that look equal count as equal.
    printed = np.where(np.isnan(values), -1, np.round(values, 4))
    # A star means that a row beats all others, so a lead within chance gets none.
    clear = np.array([*(_chance(run, target, values[:, column])
                        for column, target in enumerate(run.targets)),
                      _chance(run, None, values[:, -1])])
    ranked = np.sort(printed, axis=0)
    lead = ranked[-1] - (ranked[-2] if len(ranked) > 1 else 0)
    best = (printed == ranked[-1]) & (printed >= 0) & (lead > clear)

    def cell(value: float, marked: bool) -> Html:
        text = tables.percent(value)
        return tag("td", "★ " + text, class_="best") if marked else tag("td", text)

    times = [duration(events) for events in run.logs]
    timed = any(times)
    rows = [(tag("td", row["name"]),) + tuple(map(cell, line, marks))
            + ((tag("td", clock(seconds)),) if timed else ())
            for row, line, marks, seconds in zip(run.rows, values, best, times)]
    words = [(row["name"], described(events, run.rows))
             for row, events in zip(run.rows, run.logs)]
    return join(
        tag("p", "Do two pictures show one person? Ten-fold verification accuracy, mirror images "
                 "added. ★ leads its column by more than chance."),
        page.table(["verification, %"] + run.targets + ["mean"] + ["time"] * timed, rows),
        _uncertainty(run, values[-1, -1]),
        tag("dl", *(join(tag("dt", name), tag("dd", text)) for name, text in words if text)))


def _chance(run: Run, target: Optional[str], column: np.ndarray) -> float:
    """The largest lead that may be chance: the 95% half-width of an accuracy over the pairs.

    Below 0 if the number of pairs is unknown, so that the best is starred. Conservative, because
    all rows are measured on the same pairs.
    """
    pairs = _pairs(run, run.targets if target is None else [target])
    if not pairs:
        return -1.0
    known = column[~np.isnan(column)]
    mean = known.max() if len(known) else 0.0
    return 1.96 * math.sqrt(max(mean * (1 - mean), 0) / pairs)


def _pairs(run: Run, targets: List[str]) -> int:
    """Pairs of some verification sets together; 0 where those of one are not known."""
    counts = [run.pairs(target) for target in targets]
    return 0 if None in counts else sum(count or 0 for count in counts)


def duration(events: List[Any]) -> Optional[float]:
    """Seconds from a stage's start to its last event; None where the log does not tell.

    For a resumed stage this includes the time between the runs, which the log does not show.
    """
    times = [event["time"] for event in events if "time" in event]
    return times[-1] - times[0] if len(times) > 1 and times[-1] >= times[0] else None


def clock(seconds: Optional[float]) -> str:
    if seconds is None or math.isnan(seconds):
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours} h {minutes:02d} min" if hours
            else f"{minutes} min {seconds:02d} s")


def _uncertainty(run: Run, mean: float) -> Html:
    """How large a difference may be chance."""
    pairs = _pairs(run, run.targets)
    if not pairs or not 0 < mean < 1:
        return Html()
    return tag("p", f"Read differences with care: over {pairs:,} pairs, a mean of "
                    f"{tables.percent(mean, 1)} is uncertain by "
                    f"{196 * math.sqrt(mean * (1 - mean) / pairs):.1f} either way (95%, "
                    "binomial).", class_="quiet")


def learning_curves(run: Run) -> Optional[Html]:
    """Loss and verification of each stage over its batches."""
    verified = [_accuracies(events, run.targets) for events in run.logs]
    seen = np.concatenate([rates.ravel() for _, rates in verified])
    # The same scale for every stage, so that they can be compared.
    limits = ((math.floor(np.nanmin(seen)) - 1, math.ceil(np.nanmax(seen)) + 1)
              if not np.isnan(seen).all() else None)
    parts = []
    for row, events, curve in zip(run.rows, run.logs, verified):
        charts = _loss_charts(events)
        if not np.isnan(curve[1]).all():  # some set of the run was verified
            charts.append(_verification_chart(events, curve, limits))
        if charts:
            parts += [tag("h3", row["name"]), tag("div", *charts, class_="charts")]
    if not parts:
        return None
    return join(tag("p", "Losses of different stages are on different scales. At a dotted line the "
                         "learning rate falls. Losses are smoothed; the faint line is what was "
                         "logged."),
                page.legend(run.targets + ["mean of these"]), *parts)


# Metric in the log -> title. Of each group the first that a log has is drawn.
SHOWN_LOSSES = ({"loss": "loss on the head", "softmaxloss": "loss on the head"},
                {"interloss": "loss on the tail, with its weight"})


def _loss_charts(events: List[Dict[str, Any]]) -> List[Html]:
    trained = [event for event in events if event["event"] == "train"]
    charts = []
    for losses in SHOWN_LOSSES:
        for name, title in losses.items():
            points = [(event["step"], event["metrics"][name]) for event in trained
                      if name in event["metrics"]]
            if points:
                steps, values = zip(*points)
                x, y = page.thinned(steps, values)
                charts.append(_over_batches(
                    title, events, "loss",
                    lambda axes, color, x=x, y=y: (
                        axes.plot(x, y, color=color(INK), alpha=0.3, linewidth=0.8),
                        axes.plot(x, page.smoothed(y), color=color(INK)))))
                break
    return charts


def _accuracies(events: List[Dict[str, Any]], targets: List[str]) -> Tuple[List[int], np.ndarray]:
    """Steps, and percent (steps, targets)."""
    verified = [event for event in events if event["event"] == "verify"]
    return [event["step"] for event in verified], np.array(
        [[100 * event["results"].get(target, {}).get("accuracy_flip", math.nan)
          for target in targets] for event in verified]).reshape(len(verified), len(targets))


def _verification_chart(events: List[Dict[str, Any]], curve: Tuple[List[int], np.ndarray],
                        limits: Optional[Tuple[int, int]]) -> Html:
    steps, rates = curve

    def draw(axes: Any, color: Any) -> None:
        for line, values in enumerate(rates.T):
            axes.plot(steps, values, color=color(line), marker=".", linewidth=1)
        axes.plot(steps, rates.mean(axis=1), color=color(rates.shape[1]), marker=".", linewidth=2)
        if limits:
            axes.set_ylim(*limits)

    people = os.path.basename(os.path.normpath(events[0]["options"].get("eval_dir") or ""))
    title = "verification" if people in ("", ".") else "verification on " + people
    return _over_batches(title, events, "accuracy, %", draw)


def _over_batches(title: str, events: List[Dict[str, Any]], ylabel: str,
                  draw: Callable[..., Any]) -> Html:
    falls = [event["step"] for event in events if event["event"] == "lr"]

    def drawn(axes: Any, color: Any) -> None:
        draw(axes, color)
        for step in falls:
            axes.axvline(step, color=color(INK), linestyle=":", linewidth=0.8)
        axes.set(xlabel="batches", ylabel=ylabel)

    return page.figure(title, page.chart(drawn, f"{title} over batches"))


def roc_curves(run: Run) -> Optional[Html]:
    """ROC of every row's model on every verification set of the data."""
    sets = run.sets
    models = [(line, row) for line, row in enumerate(run.rows) if row.get("model")]
    if not sets or not models:
        return None
    curves: Dict[str, Dict[int, Any]] = {name: {} for name in sets}
    for line, row in models:
        embedder = run.embedder(row, next(iter(sets.values()))[0])
        for name, (pictures, issame) in sets.items():
            plain, flipped = embedder.embed(pictures, flip=True,
                                            label=f"{row['name']}, {name}")
            curves[name][line] = verification.roc(
                verification.pair_distances(plain + flipped), issame)
    rows = [(tag("td", row["name"]),) + tuple(
        tag("td", tables.percent(verification.area(curves[name][line]))) for name in sets)
        for line, row in models]
    return join(
        tag("p", "True accept rate: how many pairs of one person are accepted. False accept rate: "
                 "how many pairs of two people are. Higher is better, most of all on the left; the "
                 "table has the area under each curve."),
        page.legend([row["name"] for row in run.rows]),
        tag("div", *(_roc_chart(name, curves[name], sets[name][1]) for name in sets),
            class_="charts"),
        page.table(["area under the curve, %"] + list(sets), rows))


def _roc_chart(name: str, curves: Dict[int, verification.Roc], issame: np.ndarray) -> Html:
    # A curve has a step for each pair; keep only as many points as can be seen.
    fars = np.geomspace(1 / (~issame).sum(), 1, 150)

    def draw(axes: Any, color: Any) -> None:
        for line, curve in curves.items():
            axes.plot(fars, [verification.tar_at(curve, far) for far in fars], color=color(line),
                      drawstyle="steps-post")
        axes.set(xlabel="false accept rate", ylabel="true accept rate", xscale="log",
                 ylim=(0, 1.02))

    return page.figure(name, page.chart(draw, f"ROC on {name}"))
