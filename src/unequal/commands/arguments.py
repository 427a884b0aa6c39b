"""Values and options that several commands take, and the parser that reads them."""
import argparse
import difflib
import re
import sys
from typing import Any, Callable, Dict, Iterable, List, NoReturn, Optional, Tuple, Type

from unequal.errors import InputError
from unequal.system.runtime import available_cpus
from unequal.system.text import plain
from unequal.training import config, presets
from unequal.training.flags import Range

MAX_PROCESSES = 1024  # more is a typing mistake, and would take the machine down


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean WORD?`` where ``word`` looks like one of the known ones, else empty."""
    close = difflib.get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line with a suggestion, not a page of usage."""

    # Set for a training step: the parser's defaults by what is typed (--config).
    defaults_by: Optional[Callable[[List[str]], Dict[str, Any]]] = None

    def error(self, message: str) -> NoReturn:
        message = plain(" ".join(message.split()))
        if len(message) > 500:
            message = message[:400] + " ... " + message[-80:]
        self.exit(2, f"error: {message}{'' if message.endswith('?') else '.'} "
                     f"(`{self.prog} --help` lists what there is)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        # Before the check for missing arguments: a misspelt flag may be the missing one.
        for word in [] if self._subparsers else args:
            if word == "--":
                break
            flag = word.split("=", 1)[0]
            if (re.fullmatch(r"--\w[\w-]*", flag) and flag not in self._option_string_actions
                    and not (self.allow_abbrev and any(
                        known.startswith(flag) for known in self._option_string_actions))):
                self._unrecognized([flag])
        if self.defaults_by is not None and not {"-h", "--help"} & set(args):
            try:
                self.set_defaults(**self.defaults_by(list(args)))
            except (InputError, OSError) as error:
                self.exit(1, f"error: {' '.join(str(error).split())}\n")
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:  # checked here, where the sub-command's flags are known, for the suggestion
            self._unrecognized(rest)
        return namespace, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = suggestion(str(value), map(str, action.choices))
            if isinstance(action, argparse._SubParsersAction):
                self.error(f"unknown command {value!r}{hint}")
            known = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value!r} is unknown; known are {known}{hint}")

    def _unrecognized(self, words: List[str]) -> NoReturn:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        word = words[0]
        hint = suggestion("--" + word.lstrip("-"), flags) if word.startswith("-") else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{hint}")


def add_config_file(parser: Parser, made: Type[config.Config]) -> None:
    """Let ``--config`` set the defaults of a parser that has the flags of ``made``."""
    def read(words: List[str]) -> Dict[str, Any]:
        path = presets.value_of("--config", words)
        return presets.defaults(path, made, presets.value_of("--network", words)) if path else {}

    parser.defaults_by = read


def _number(kind: Callable, allowed: Range) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        problem = allowed.problem(value)
        if problem:
            raise argparse.ArgumentTypeError(problem)
        return value

    read.__name__ = kind.__name__  # argparse: invalid int value: 'x'
    return read


def integer(low: Optional[int] = None, high: Optional[int] = None,
            above: bool = False) -> Callable[[str], int]:
    """The ``type`` of a flag: a whole number within :class:`~unequal.training.flags.Range`."""
    return _number(int, Range(low, high, above))


def real(low: Optional[float] = None, high: Optional[float] = None,
         above: bool = False) -> Callable[[str], float]:
    """The ``type`` of a flag: a finite number within :class:`~unequal.training.flags.Range`."""
    return _number(float, Range(low, high, above))


def picture_size(text: str) -> Tuple[int, int]:
    """(height, width) of ``112x96`` or, for squares, ``112``; ``112,96`` was our older spelling."""
    try:
        sides = [int(side) for side in re.split("[x,]", text)]
        height, width = sides * 2 if len(sides) == 1 else sides
        if not (1 <= height <= 4096 and 1 <= width <= 4096):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size such as 112 or 112x96 (height x width)") from None
    return height, width


def quality(text: str) -> int:
    """1 to 100."""
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a quality from 1 to 100")
    return int(text)


def process_count(text: str) -> int:
    """1 to :data:`MAX_PROCESSES`."""
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_PROCESSES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of processes from 1 to {MAX_PROCESSES}")
    return int(text)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add ``--processes``."""
    parser.add_argument("--processes", type=process_count, default=available_cpus(),
                        help="default: one a processor, here %(default)s")


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch-size`` and ``--devices``, for a network that is only run."""
    parser.add_argument("--batch-size", type=integer(0, above=True), default=64,
                        help="pictures a forward pass (default %(default)s)")
    parser.add_argument("--devices", default="",
                        help="cpu, cpu:N or gpu:0,1; default by CUDA_VISIBLE_DEVICES")


def margin(text: str) -> float:
    """0 to 10."""
    try:
        value = float(text)
        if not 0 <= value <= 10:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 10") from None
    return value


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that turns pictures into records."""
    parser.add_argument("--size", type=picture_size, default=(112, 112), metavar="HEIGHTxWIDTH",
                        help="of the images in pixels, or one number for squares (default 112)")
    parser.add_argument("--quality", type=quality, default=95,
                        help="of the JPEGs written anew, 1 to 100 (default 95)")
    add_processes(parser)


def add_image_size(parser: argparse.ArgumentParser) -> None:
    """Add ``--image-size``, for the checkpoint's network; None when it is not given."""
    parser.add_argument("--image-size", type=picture_size, metavar="HEIGHTxWIDTH",
                        help="of the network's input; default: found from its weights")
