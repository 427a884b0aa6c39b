"""The ``unequal`` command: a table of subcommands and one way to fail.

A subcommand is a module with ``configure(parser)``, which adds its arguments, and
``run(options)``, which does the work and returns None or an exit code.
"""
import argparse
import importlib
import logging
import os
import re
import sys
from contextlib import suppress
from typing import Any, Callable, Iterable, List, Optional, TextIO, Union

from unequal.commands import arguments
from unequal.errors import ArgumentError, InputError
from unequal.system import interrupts, runtime
from unequal.system.text import plain

# name -> (module, one line of help)
COMMANDS = {
    "synth": ("unequal.commands.synth", "draw the built-in data set in MF2's format"),
    "align": ("unequal.commands.align", "faces found in photographs and cut out upright"),
    "pack": ("unequal.commands.pack", "folder per identity, or .lst, to record set"),
    "unpack": ("unequal.commands.unpack", "record set to folder per identity"),
    "import": ("unequal.commands.import_", "LFW, CFP or an InsightFace pack, as published"),
    "corrupt": ("unequal.commands.corrupt", "known label noise in a clean set, with its truth"),
    "split": ("unequal.commands.split", "frequent (head) and rare (tail) identities of a set"),
    "denoise": ("unequal.commands.denoise", "record set minus a noise list"),
    "pack-bin": ("unequal.commands.pack_bin", "list of pairs to verification set"),
    "inspect": ("unequal.commands.inspect", "what is in a set, and what is wrong with it"),
    "verify": ("unequal.commands.verify", "verification accuracy of a model"),
    "identify": ("unequal.commands.identify", "identification among distractors (MF2, MegaFace)"),
    "embed": ("unequal.commands.embed", "features of pictures"),
    "export": ("unequal.commands.export", "ONNX model of the embedding"),
    "noise": ("unequal.commands.noise", "list the images that look mislabelled"),
    "drop-centers": ("unequal.commands.drop_centers",
                     "one centre a class of a model trained with --sub-centers"),
    "review": ("unequal.commands.review", "a page to decide about listed images"),
    "train": ("unequal.commands.train", "a step of the recipe, as the scripts train_*.py"),
    "plan": ("unequal.commands.plan", "memory that a training run needs of each GPU"),
    "launch": ("unequal.commands.launch", "the same command on several machines"),
    "report": ("unequal.commands.report", "self-contained HTML page of a run"),
    "compare": ("unequal.commands.compare", "curves and tables of several runs on one page"),
    "parity": ("unequal.commands.parity", "compare our symbols with a recorded reference"),
    "doctor": ("unequal.commands.doctor", "what this machine can do"),
}


def _mute(stream: TextIO) -> None:
    """Send a stream's output, buffered text included, to nowhere.

    Otherwise the interpreter would complain at exit that it cannot be written.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _flush() -> Optional[Exception]:
    """Flush stdout and stderr; mute those that cannot be written, and return the first error."""
    first: Optional[Exception] = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            first = first or error
            _mute(stream)
    return first


def _say(text: object) -> None:
    """A line on stderr, if that can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _mute(sys.stderr)


def open_streams() -> None:
    """Open standard streams that were closed (`2>&-`) on /dev/null.

    Otherwise the next opened file would get their number, and the output of libraries.
    """
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            break
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


# Arguments of the library that have another name on the command line.
_ARGUMENTS = {
    "checkpoint": "pretrained",
    "components": "pca",
    "head_size": "batch_size1",
    "path": "out",  # of features
    "spec": "devices",
    "store": "kv_store",
    "tail_size": "batchsize_id",
}


def in_flags(error: Union[ArgumentError, interrupts.Interrupted]) -> str:
    """The text of an error with flags in place of its arguments.

    The one place where the library's names of arguments become the command line's flags.
    """
    from unequal.training import config

    text, done = str(error), 0
    for name in filter(str.isidentifier, error.arguments):  # the rest is text, not names
        # Only its next occurrence, since a value may be the same word; and no part of a path.
        place = re.compile(rf"(?<![\w./-]){name}(?![\w/-]|,\d)").search(text, done)
        if place:
            flag = config.spelling(_ARGUMENTS.get(name, name))
            text = text[:place.start()] + flag + text[place.end():]
            done = place.start() + len(flag)
    return text


def report_errors(function: Callable[[], Optional[int]], debug: bool = False) -> int:
    """Call ``function``; turn an error a user can act on into one line on stderr and exit code 1.

    InputError carries the line; an OSError (missing file, full disk) names the file itself.
    A closed pipe, Ctrl-C and SIGTERM end quietly with the shell's usual codes. Results that cannot
    be written are an error; messages that cannot be are dropped. Anything else is a defect of ours
    and keeps its traceback only with ``debug``.
    """
    try:
        code = function() or 0
        failed = _flush()
        if failed is not None and not code:
            raise failed
        return code
    except KeyboardInterrupt as signal:
        terminated = isinstance(signal, interrupts.Terminated)
        _say("terminated" if terminated else "interrupted")
        return 143 if terminated else 130
    except interrupts.Interrupted as interrupted:
        _say(in_flags(interrupted))
        _flush()  # the same Ctrl-C may have ended `| tee`
        return interrupts.EXIT_CODE
    except BrokenPipeError:
        _flush()  # the reader went away (`| head`)
        return 141
    except ArgumentError as error:
        if debug:
            raise
        message = in_flags(error)
    except InputError as error:
        if debug:
            raise
        message = str(error)
    except MemoryError:
        if debug:
            raise
        message = "not enough memory; is the input what it should be? Else lower --batch-size."
    except OSError as error:
        if debug:
            raise
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except Exception as error:
        if debug:
            raise
        said = str(error).splitlines()[0] if str(error) else "no message"
        message = (f"unexpected {type(error).__name__}: {said} (run again with --debug and report "
                   "the traceback)")
    message = plain(" ".join(message.split()))
    if len(message) > 2000:  # a name from a hostile file can have any length
        message = message[:1000] + " ... " + message[-900:]
    _flush()
    _say("error: " + message)
    return 1


class _Handler(logging.StreamHandler):
    """Drops messages that cannot be written.

    A full disk or a closed pipe must not end a training of days; the event log has the same facts.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, ValueError)):
            super().handleError(record)
            return
        _mute(self.stream)
        if not isinstance(error, BrokenPipeError) and self.stream is not sys.stderr:
            _say(f"messages cannot be written any more ({error}); the work goes on without")


class _OneLine(logging.Formatter):
    """Formats a message as one line of plain text: names in it may come from hostile files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return "\t".join(map(plain, super().formatMessage(record).split("\t")))


def _prepare_output() -> None:
    """Let stdout take any name: one that is no UTF-8 would end a command after its work."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def setup_logging(stream: Optional[TextIO] = None) -> None:
    """Messages as plain lines; on stderr unless told, since stdout carries results."""
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def run_script(main: Callable[[Any], Optional[int]], config_class: type, description: str) -> int:
    """Run an entry script: parse, log to stdout as the recipe's ``| tee`` expects, ``main``.

    ``main`` gets a value of ``config_class`` (:mod:`unequal.training.config`). SIGTERM and SIGINT
    save and stop it (:mod:`unequal.system.interrupts`).
    """
    from unequal.training import config, flags

    open_streams()
    _prepare_output()
    setup_logging(sys.stdout)
    parser = flags.parser(description.splitlines()[0], config_class, arguments.Parser)
    assert isinstance(parser, arguments.Parser)
    arguments.add_config_file(parser, config_class)
    options = parser.parse_args()
    with interrupts.caught():
        return report_errors(lambda: main(config.from_options(config_class, options)),
                             debug=options.debug)


def build_parser(names: Iterable[str] = COMMANDS) -> arguments.Parser:
    """The parser of the subcommands in ``names`` (importing only their modules)."""
    parser = arguments.Parser(
        prog="unequal", description="Face recognition from long-tailed, noisy data.",
        epilog="`unequal COMMAND --help` says more.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, help_line) in COMMANDS.items():
        sub = commands.add_parser(name, help=help_line, description=help_line)
        # Flags without a range of their own get the limits of MXNet's and numpy's numbers.
        sub.register("type", int, arguments.integer())
        sub.register("type", float, arguments.real())
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        if name in names:
            sub.set_defaults(run=_configure(sub, module))
    return parser


def _configure(parser: argparse.ArgumentParser,
               module: str) -> Callable[[argparse.Namespace], Optional[int]]:
    loaded = importlib.import_module(module)
    loaded.configure(parser)
    return loaded.run


def main(words: Optional[List[str]] = None) -> int:
    """Entry point of ``unequal``; returns the exit code (0, 1 bad input, 2 bad usage)."""
    open_streams()
    _prepare_output()
    words = sys.argv[1:] if words is None else words
    # Signals are caught from here on, so that they also end the import of the modules cleanly.
    with interrupts.unwinding():
        return report_errors(lambda: _command(words), debug="--debug" in words)


def _command(words: List[str]) -> int:
    # The subcommands' modules import MXNet; not doctor's, which says why it does not import, nor
    # launch's, which would do nothing with it.
    if words[:1] and words[0] in COMMANDS and words[0] not in ("doctor", "launch"):
        failed = report_errors(runtime.import_mxnet, debug="--debug" in words)
        if failed:
            return failed
    parser = build_parser(names=words[:1])
    options = parser.parse_args(words)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    if options.command != "train":
        setup_logging()
        return report_errors(lambda: options.run(options), debug=options.debug)
    setup_logging(sys.stdout)  # as the scripts
    with interrupts.caught():
        return report_errors(lambda: options.run(options), debug=options.debug)
