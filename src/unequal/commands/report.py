"""``unequal report``: one self-contained HTML page of a run.

A run is a directory with training logs, or with a file ``run.json`` that says more
(docs/evaluation.md, "A page of a run"); `make demo` writes one. Each section of the page is a
function of the run that returns its content, or None where the run has nothing for it.
"""
import argparse
import logging
import os
from typing import Callable, Iterator, Optional

from unequal.errors import InputError
from unequal.report import page, stages, tables
from unequal.report import pictures as report_pictures
from unequal.report.page import Html, tag
from unequal.report.runs import Run
from unequal.system.files import replacing
from unequal.system.text import say

logger = logging.getLogger(__name__)


def commands(run: Run) -> Optional[Html]:
    """The commands that made the run."""
    lines = run.facts.get("commands")
    return tag("pre", "\n\n".join(map(str, lines))) if lines else None


SECTIONS = (
    ("Accuracy after each stage", stages.accuracy_table),
    ("Learning curves", stages.learning_curves),
    ("A map of the embedding", report_pictures.embedding_map),
    ("ROC of the stages", stages.roc_curves),
    ("The most suspected labels", report_pictures.suspects),
    ("How good the suspicion is", report_pictures.noise_quality),
    ("The tail identities that the model confuses most", report_pictures.confusable_pairs),
    ("The commands", commands),
)


def render(run: Run) -> str:
    """The page as text, the same for the same run.

    Parameters
    ----------
    run : Run

    Raises
    ------
    InputError
        When a file of the run is damaged, or matplotlib is missing.
    """
    facts = []
    if "seed" in run.facts:
        facts.append(f"Seed {run.facts['seed']}")
    if "seconds" in run.facts:
        minutes, seconds = divmod(round(run.facts["seconds"]), 60)
        facts.append(f"made in {minutes} min {seconds} s")
    sections = [(heading, _made(section, run)) for heading, section in SECTIONS]
    return page.document(
        run.title, tag("h1", run.title), tag("p", ", ".join(facts), class_="quiet"),
        page.sections((heading, made) for heading, made in sections if made is not None),
        tag("footer", *_footer(run)))


def _made(section: Callable[[Run], Optional[Html]], run: Run) -> Optional[Html]:
    """A section, or None. Without run.json the sets are those that the logs name.

    If such a set has changed since, only its section is left out of the page.
    """
    try:
        return section(run)
    except InputError as error:
        if not run.from_logs:
            raise
        logger.warning("left out of the page: %s", error)
        return None


def _footer(run: Run) -> Iterator[str]:
    # Only `unequal synth` writes truth.csv beside the record sets.
    data = run.data()
    if data and os.path.exists(os.path.join(data, "truth.csv")):
        yield ("All faces on this page are drawn by a program (`unequal synth`): nobody is shown, "
               "and the numbers say how the method behaves on drawings, nothing about people. ")
    yield "Made by `unequal report`; the page holds everything it shows and fetches nothing."


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal report``."""
    parser.add_argument("directory", metavar="RUN",
                        help="directory of a run: with training logs, or run.json (`make demo`)")
    parser.add_argument("--out", metavar="FILE", help="page to write (default: RUN/report.html)")


def run(options: argparse.Namespace) -> None:
    """Write the page, print its path."""
    out = options.out or os.path.join(options.directory, "report.html")
    tables.new_figure(out)  # is matplotlib there? Better to know before minutes of embedding
    text = render(Run(options.directory))
    with replacing(out) as file:
        file.write(text)
    say(out)
