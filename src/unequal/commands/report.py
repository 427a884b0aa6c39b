"""``unequal report``: one self-contained HTML page of a run.

A run is a directory with a file ``run.json`` (docs/evaluation.md, "A page of a run"); `make demo`
writes one. Each section of the page is a function of the run that returns its content, or None
where the run has nothing for it.
"""
import json
import logging
import os
from functools import cached_property

from unequal.data import pictures as images
from unequal.errors import InputError
from unequal.eval import bins
from unequal.models.embedder import Embedder, PictureList
from unequal.report import page, stages, tables
from unequal.report import pictures as report_pictures
from unequal.report.page import tag
from unequal.system import runtime
from unequal.system.files import replacing

logger = logging.getLogger(__name__)

HEAD = "MF2_pic9_head"  # as `unequal synth` and the recipe name it


class Run:
    """``run.json`` and the files it names.

    Parameters
    ----------
    directory : str

    Attributes
    ----------
    facts : dict
        ``run.json`` as it is.
    title : str
    rows : list of dict
        Each with ``name`` and ``accuracies``; ``model`` and ``log`` where there are.
    targets : list of str
        The verification sets of all rows.
    logs : list of list of dict
        Of each row, the events of its training log; empty without one.

    Raises
    ------
    InputError
        When there is no ``run.json``, or it has no title or no rows.
    """

    def __init__(self, directory):
        self.directory = directory
        path = os.path.join(directory, "run.json")
        try:
            with open(path, encoding="utf-8") as file:
                self.facts = json.load(file)
            self.title, self.rows = str(self.facts["title"]), self.facts["rows"]
            if not self.rows:
                raise ValueError
            for row in self.rows:
                row["name"] = str(row["name"])
                row["accuracies"] = {target: float(value)
                                     for target, value in row["accuracies"].items()}
        except FileNotFoundError:
            raise InputError("{}: no such file; it says what a run consists of (`make demo` writes "
                             "one, docs/evaluation.md describes it).".format(path)) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError("{}: expected JSON with a title and rows, each with a name and "
                             "accuracies; docs/evaluation.md describes it.".format(path)) from None
        self.targets = list(dict.fromkeys(
            target for row in self.rows for target in row["accuracies"]))
        logs = [self.path(row.get("log")) for row in self.rows]
        self.logs = [last_training(log) if log else [] for log in logs]

    def path(self, *names):
        """The path ``RUN/name/...``; None when a name is None, or nothing is there."""
        if None in names:
            return None
        path = os.path.join(self.directory, *names)
        if os.path.exists(path):
            return path
        logger.warning("%s is not there: left out of the page", path)
        return None

    def part(self, section, name):
        """:meth:`path` of an entry of a section such as ``noise``."""
        return self.path(self.facts.get(section, {}).get(name))

    def data(self, *names):
        """:meth:`path` within the data directory."""
        return self.path(self.facts.get("data"), *names)

    @cached_property
    def sets(self):
        """Verification sets of the data: name -> ``(PictureList, issame)``.

        Memory: the encoded pictures (a few hundred MB at 112x112).
        """
        directory = self.data("eval_dataset")
        paths = bins.find_sets("", directory, self.targets) if directory else {}
        loaded = {}
        for name, path in paths.items():
            pictures, issame = bins.load_bin(path)
            loaded[name] = PictureList(pictures, path), issame
        return loaded

    @property
    def head(self):
        """Path of the head set, or None."""
        return self.data(HEAD)

    def embedder(self, row, source):
        """The embedder of a row's model, for pictures like the first of ``source``."""
        devices = runtime.devices(None)
        first = source.image(source.image_keys[0])[1]
        size = images.decode(first, "{}: image 0".format(source.path)).shape[:2]
        return Embedder.from_checkpoint(
            os.path.join(self.directory, row["model"]), size, devices, 64 * len(devices),
            flag="{}: the model".format(row["name"]))


def last_training(path):
    """Events of a training log (:class:`unequal.training.fit.EventLog`) since its last start.

    Raises
    ------
    InputError
        When it is another file.
    """
    events = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
                if event["event"] == "start":
                    events = []
            except (ValueError, KeyError, TypeError):
                raise InputError("{}, line {}: not an event of a training log; give the "
                                 "PREFIX-trainlog.jsonl of a training script.".format(
                                     path, number)) from None
            events.append(event)
    return events


def commands(run):
    """What made the run."""
    lines = run.facts.get("commands")
    return tag("pre", "\n\n".join(map(str, lines))) if lines else None


SECTIONS = (
    ("Accuracy after each stage", stages.accuracy_table),
    ("Learning curves", stages.learning_curves),
    ("ROC of the stages", stages.roc_curves),
    ("The most suspected labels", report_pictures.suspects),
    ("How good the suspicion is", report_pictures.noise_quality),
    ("The tail identities that the model confuses most", report_pictures.confusable_pairs),
    ("The commands", commands),
)


def render(run):
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
        facts.append("Seed {}".format(run.facts["seed"]))
    if "seconds" in run.facts:
        facts.append("made in {} min {} s".format(*divmod(round(run.facts["seconds"]), 60)))
    content = [tag("h1", run.title), tag("p", ", ".join(facts), class_="quiet")]
    for heading, section in SECTIONS:
        made = section(run)
        if made is not None:
            content.append(tag("section", tag("h2", heading), made))
    content.append(tag("footer", *_footer(run)))
    return page.document(run.title, *content)


def _footer(run):
    # Only `unequal synth` writes truth.csv beside the record sets.
    if run.data() and os.path.exists(os.path.join(run.data(), "truth.csv")):
        yield ("All faces on this page are drawn by a program (`unequal synth`): nobody is shown, "
               "and the numbers say how the method behaves on drawings, nothing about people. ")
    yield "Made by `unequal report`; the page holds everything it shows and fetches nothing."


def configure(parser):
    """Arguments of ``unequal report``."""
    parser.add_argument("directory", metavar="RUN",
                        help="directory with run.json, as `make demo` makes it")
    parser.add_argument("--out", metavar="FILE", help="page to write (default: RUN/report.html)")


def run(options):
    """Write the page, print its path."""
    out = options.out or os.path.join(options.directory, "report.html")
    tables.new_figure(out)  # is matplotlib there? Better to know before minutes of embedding
    text = render(Run(options.directory))
    with replacing(out) as file:
        file.write(text)
    print(out)
