"""The flags of the training scripts: one row a flag, with all its facts.

A row is a field of a dataclass (:mod:`unequal.training.config`), made by :func:`flag`. From the
rows come the parser and its help, the checks of the values, what a resumed run may change, what
the workers of a job must agree on, and the table docs/flags.md.
"""
import argparse
import dataclasses
import math
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Type, TypeVar, Union

from unequal.errors import ArgumentError

# Where a flag comes from. UNUSED: a flag of the reference that has no effect there or here; it is
# accepted so that the reference's command lines keep working.
REFERENCE, OURS, UNUSED = "the reference's", "ours", "unused"

# When it may change. NEVER: another value makes another run. AT_RESUME: a resumed run may change
# it, for all workers alike. ANYWHERE: each worker and each resume may have its own value, since it
# only says where files are or what to log.
NEVER, AT_RESUME, ANYWHERE = "no", "yes", "each worker"

_INT = 2 ** 31 - 1  # MXNet's integers
_FLOAT = 3.4028234e38  # the largest float32
_SMALLEST = 1.1754944e-38  # and the smallest normal one: MXNet reads no smaller number


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, both allowed, or with ``above`` all but ``low`` itself.

    None: as far as a 32-bit number goes. No number may be NaN or infinite.
    """

    low: Optional[float] = None
    high: Optional[float] = None
    above: bool = False

    def problem(self, value: float) -> str:
        """What is wrong with ``value``, to follow the flag's name in a sentence; or ""."""
        if isinstance(value, float) and not math.isfinite(value):
            if self.low is None or self.high is None:
                return f"{value} is not a finite number"
            return f"{value} must lie in {self}"
        most = _INT if isinstance(value, int) else _FLOAT
        low = -most if self.low is None else self.low
        high = most if self.high is None else self.high
        if not isinstance(value, int) and 0 < abs(value) < _SMALLEST:
            return f"{value} is too small for a 32-bit number; give 0 or at least {_SMALLEST}"
        if low < value <= high or (value == low and not self.above):
            return ""
        if self.low is not None and self.high is not None:
            return f"{value} must lie in {self}"
        if value > high:
            return f"{value} must be at most {high}"
        if self.above:
            return (f"{value} " if value or isinstance(value, float) else "") + (
                f"must be above {low}")
        return f"{value} must " + ("not be negative" if low == 0 else f"be at least {low}")

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{'(' if self.above else '['}{self.low:g}, {self.high:g}]"
        if self.low is not None:
            return f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return "" if self.high is None else f"at most {self.high:g}"


class Choice(NamedTuple):
    """One of a few values."""

    values: tuple

    def problem(self, value: Any) -> str:
        if value in self.values:
            return ""
        return f"{value!r} is unknown; known are {', '.join(map(str, self.values))}"

    def __str__(self) -> str:
        return ", ".join(str(value) or "empty" for value in self.values)


class Path(NamedTuple):
    """The name of something that will be written: text that every part of MXNet can take."""

    empty: bool = True  # whether the empty string is allowed

    def problem(self, value: str) -> str:
        if not value and not self.empty:
            return "is empty; name where to write"
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{value!r} is not UTF-8 text, and MXNet can write no such file; choose another"
        return ""

    def __str__(self) -> str:
        return ""


ANY = Range()
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
SWITCH = Choice((0, 1))

Allowed = Union[Range, Choice, Path, None]


class Flag(NamedTuple):
    """The facts of one flag."""

    name: str  # of the attribute: margin_s
    spelling: str  # --margin-s
    kind: type
    default: Any
    help: str
    origin: str
    allowed: Allowed
    change: str
    const: Any  # the value when the flag is given without one; None: it needs one

    def check(self, value: Any) -> None:
        """Raise ArgumentError, which names the argument, unless ``value`` can be used."""
        problem = self._problem(value)
        if problem:
            raise ArgumentError(f"{self.name} {problem}.", self.name)

    def _problem(self, value: Any) -> str:
        kinds = (int, float) if self.kind is float else self.kind
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.kind is not bool):
            return f"{value!r} must be of type {self.kind.__name__}"
        if isinstance(value, str) and "\0" in value:
            return f"{value!r} holds a zero byte"
        if self.allowed is None:
            return ""
        allowed: Any = self.allowed
        return allowed.problem(value)


_Value = TypeVar("_Value", int, float, str, bool)


def flag(default: _Value, help: str, *, origin: str = REFERENCE, allowed: Allowed = None,
         change: str = NEVER, spelling: str = "", const: Any = None) -> _Value:
    """A field of a configuration: the row of one flag.

    Parameters
    ----------
    default : int, float, str or bool
        Its type is the flag's; a bool is a switch without a value.
    help : str
    origin : str
        :data:`REFERENCE`, :data:`OURS` or :data:`UNUSED`.
    allowed : Range, Choice or Path, optional
        Numbers are finite in any case.
    change : str
        :data:`NEVER`, :data:`AT_RESUME` or :data:`ANYWHERE`.
    spelling : str
        Where it is not the name with dashes.
    const
        The value of the flag given without one.
    """
    if allowed is None and type(default) in (int, float):
        allowed = ANY
    facts = dict(help=help, origin=origin, allowed=allowed, change=change, spelling=spelling,
                 const=const)
    # The type checker is told that a field has the type of its value.
    return dataclasses.field(default=default, metadata=facts)  # type: ignore[return-value]


def rows(config: Any) -> List[Flag]:
    """The rows of a configuration, a class or a value, in their order."""
    result = []
    for field in dataclasses.fields(config):
        facts = dict(field.metadata)
        spelling = facts.pop("spelling") or "--" + field.name.replace("_", "-")
        result.append(Flag(name=field.name, spelling=spelling, kind=type(field.default),
                           default=field.default, **facts))
    return result


USAGE = "%(prog)s --data-dir DIR --prefix P [FLAG VALUE ...]"  # sixty flags would hide these two


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows each default, unless that is None or empty."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        if action.default is None or action.default is False or action.default == "":
            return action.help
        return super()._get_help_string(action)


def _limits(allowed: Allowed) -> str:
    """The allowed values, as help shows them."""
    if isinstance(allowed, Choice):
        *first, last = [str(value) for value in allowed.values if value != ""]
        return f"{', '.join(first)} or {last}"
    if isinstance(allowed, Range) and None not in allowed[:2] and not allowed.above:
        return f"{allowed.low:g} to {allowed.high:g}"
    return str(allowed or "")


def add_arguments(parser: argparse.ArgumentParser, config: Type,
                  names: Optional[Iterable[str]] = None, **defaults: Any) -> None:
    """Add the flags of a configuration to a parser, in groups by where they come from.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    config : type
        A dataclass of :mod:`unequal.training.config`.
    names : iterable of str, optional
        Only these.
    **defaults
        In place of the rows' own, by name.
    """
    wanted = [row for row in rows(config) if names is None or row.name in set(names)]
    unknown = set(defaults) - {row.name for row in wanted}
    assert not unknown, unknown
    titles = {REFERENCE: "flags of the reference", OURS: "flags of ours",
              UNUSED: "unused, accepted for old command lines"}
    for origin, title in titles.items():
        group = parser.add_argument_group(title)
        for row in wanted:
            if row.origin == origin:
                _add(group, row, defaults.get(row.name, row.default))


def _add(group: Any, row: Flag, default: Any) -> None:
    text = row.help.replace("%", "%%")
    if row.kind is bool:
        group.add_argument(row.spelling, dest=row.name, action="store_true", help=text)
        return
    limits = _limits(row.allowed)
    more: Dict[str, Any] = {} if row.const is None else dict(nargs="?", const=row.const)
    group.add_argument(row.spelling, dest=row.name, type=row.kind, default=default,
                       metavar=row.name.upper(),
                       help=f"{text} [{limits}]" if limits else text, **more)


def parser(description: str, config: Type,
           kind: Type[argparse.ArgumentParser] = argparse.ArgumentParser,
           **defaults: Any) -> argparse.ArgumentParser:
    """The argument parser, of class ``kind``, of a training script.

    Its values are what was typed; :func:`unequal.training.config.from_options` checks them.
    """
    result = kind(description=description, formatter_class=HelpFormatter, allow_abbrev=False,
                  usage=USAGE)
    add_arguments(result, config, **defaults)
    return result
