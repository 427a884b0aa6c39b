"""The exceptions a user is meant to read."""
from typing import Any, Mapping, TypeVar

Value = TypeVar("Value")


def install_hint(extra: str) -> str:
    """The end of every sentence about a missing package: how to install the extra."""
    return f"install the extra [{extra}] (`pip install '.[{extra}]'`)"


class InputError(Exception):
    """Input that cannot be used: bad data, a missing file, an argument that makes no sense.

    Its text is one sentence that names the file, the record or the argument and says what to do.
    The command line prints it on stderr and exits with 1, without a traceback (``--debug`` shows
    it); library code raises it as it is.
    """


class ArgumentError(InputError, ValueError):
    """An argument of a function that cannot be used.

    The library names arguments (``margin_s 0 must be above 0.``). The command line replaces the
    name by the flag (``--margin-s 0 must be above 0.``), see
    :func:`unequal.commands.cli.report_errors`.

    Parameters
    ----------
    text : str
        One sentence that begins with the argument's name.
    *arguments : str
        The names of arguments in the text, in their order there.
    """

    def __init__(self, text: str, *arguments: str) -> None:
        super().__init__(text, *arguments)
        self.arguments = arguments

    def __str__(self) -> str:
        return str(self.args[0])


def lookup(table: Mapping[Any, Value], key: Any, argument: str) -> Value:
    """``table[key]``, or an ArgumentError that lists the known keys of ``argument``."""
    if key not in table:
        known = ", ".join(str(one) for one in table)
        raise ArgumentError(f"{argument} {key!r} is unknown; known are {known}.", argument)
    return table[key]
