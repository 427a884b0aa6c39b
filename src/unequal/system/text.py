"""Makes untrusted text, such as the names in a file, safe to show and to store."""
import re
from typing import Iterable, List

_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
# How formulas of a spreadsheet begin, and how a text begins that was already marked with '.
_FORMULA = re.compile(r"'*[=+\-@]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


def plain(text: str) -> str:
    """``text`` on one line, without control characters for a terminal.

    Characters that are not printable (Unicode's "other" and "separator" except the space) are
    escaped as in a Python string: ESC as ``\\x1b``, a line break as ``\\n``, U+202E, which reverses
    the direction of the text after it, as ``\\u202e``, a byte that is no UTF-8 as ``\\udcff``.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else
                   letter.encode("unicode_escape").decode("ascii") for letter in text)


def say(*lines: str) -> None:
    """Print results on stdout, each line through :func:`plain`, as paths in them are untrusted."""
    print(*map(plain, lines), sep="\n", flush=True)


def to_cell(text: str) -> str:
    """``text`` as a cell of a CSV file; :func:`from_cell` gives it back exactly.

    A spreadsheet sees no formula in it: ``'`` is put before ``= + - @`` at the beginning, unless
    the text is a number. A terminal sees no control character (:func:`plain`); a backslash that
    looks like such an escape is escaped itself.
    """
    if _ESCAPE.search(text):
        text = _ESCAPE.sub(lambda found: "\\x5c" + found.group()[1:], text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else _hexadecimal(letter) for letter in text)
    return "'" + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def to_cells(row: Iterable[object]) -> List[object]:
    """A row for :mod:`csv`, its texts by :func:`to_cell`."""
    return [to_cell(cell) if isinstance(cell, str) else cell for cell in row]


def _hexadecimal(letter: str) -> str:
    number = ord(letter)
    return (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000
            else f"\\U{number:08x}")


def from_cell(text: str) -> str:
    """The text from which :func:`to_cell` made a cell; other text is returned unchanged."""
    if text.startswith("'") and _FORMULA.match(text):
        text = text[1:]
    return _ESCAPE.sub(lambda found: _character(found.group()), text)


def _character(escape: str) -> str:
    number = int(escape[2:], 16)
    return chr(number) if number < 0x110000 else escape
