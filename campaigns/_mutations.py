"""Ways to damage a file, for ``fuzz.py``: every function takes a ``random.Random`` first."""
import json
import random
import re
import struct
from typing import Any, Callable, Dict, List, Sequence, Tuple

Way = Callable[[random.Random, bytes], bytes]
Values = Dict[str, List[str]]  # "keys" of objects and "texts"

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, (1 << 29) - 1, 1 << 29, 0x7FFFFFFF,
            0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63,
            (1 << 64) - 1)
NUMBERS = ("", "-1", "0", "1", "3", "-0", "0.5", "1e3", "1e308", "1e999", "-1e999", "nan", "inf",
           "-inf", "65536", "16777216", "16777217", "2147483647", "2147483648", "4294967296",
           "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
           "99999999999999999999999", "9" * 5000, "0x10", "1_000", "\u0663", "\u00b2", "None",
           "True", "1,1", "1 1", "(3, 3)", "[]", "()")
# Where a name could lead; {outside} is a folder that nothing may touch.
NAMES = ("../escaped", "../../escaped", "a/../../escaped", "{outside}/escaped", "/", "//", ".",
         "..", "", " ", "~/escaped", "$HOME/escaped", "`touch {outside}/escaped`",
         "| touch {outside}/escaped", "x\0y", "../escaped\0.jpg", "x" * 300, "y/" * 300,
         "z" * 70000, "..\\escaped", "C:\\escaped", "file://{outside}/escaped", "\u202egpj.x",
         "a\nb", "a\rb", "\x1b[2J", "a\nerror: x", "\x9b31m", "=1+1", "-1+1", "@x", "'=x", "\u2028",
         "$\\frac$", "\u4eba", "\U0010ffff",
         "-o", "--help", "%s%n", "{0}", "0", "00", "\udcff", "CON", "./a", "a/", "a//b")


def _range(random: random.Random, data: bytes) -> Tuple[int, int]:
    begin = random.randrange(len(data) + 1)
    return begin, min(len(data), begin + random.choice((1, 2, 4, 8, 30, 300, 3000)))


def flip_bits(random: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8, 64))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(random: random.Random, data: bytes) -> bytes:
    return data[:random.randrange(len(data) + 1)]


def delete(random: random.Random, data: bytes) -> bytes:
    begin, end = _range(random, data)
    return data[:begin] + data[end:]


def duplicate(random: random.Random, data: bytes) -> bytes:
    begin, end = _range(random, data)
    return data[:end] + data[begin:end] * random.choice((1, 1, 2, 50)) + data[end:]


def splice(random: random.Random, data: bytes) -> bytes:
    begin, end = _range(random, data)
    place = random.randrange(len(data) + 1)
    return data[:place] + data[begin:end] + data[place + (end - begin) * random.randrange(2):]


def insert(random: random.Random, data: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + bytes(random.getrandbits(8) for _ in range(random.randrange(1, 40))) \
        + data[place:]


def overwrite(random: random.Random, data: bytes) -> bytes:
    begin, end = _range(random, data)
    return data[:begin] + bytes([random.choice((0, 0xFF, random.getrandbits(8)))]) * (end - begin) \
        + data[end:]


def number_field(random: random.Random, data: bytes, end: None = None) -> bytes:
    """An extreme number somewhere, of 2 to 8 bytes; more often where headers are."""
    size = random.choice((2, 4, 4, 8))
    space = len(data) - size
    if space < 0:
        return data
    place = random.randrange(min(space, random.choice((64, 512, space or 1)))  + 1)
    if random.randrange(4):
        place -= place % size
    value = random.choice(EXTREMES) % (1 << 8 * size)
    number = value.to_bytes(size, "little")
    if random.choice((False, False, True)):
        number = number[::-1]
    return data[:place] + number + data[place + size:]


def not_a_number(random: random.Random, data: bytes) -> bytes:
    place = random.randrange(max(1, len(data) - 4)) // 4 * 4
    value = random.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, -1.0, 0.5, 1e10))
    return data[:place] + struct.pack("<f", value) + data[place + 4:]


def garbage(random: random.Random, data: bytes) -> bytes:
    return random.choice((b"", b"\0", b"\n", b"\xff" * 100, b"\0" * 5000, data[::-1],
                          bytes(random.getrandbits(8) for _ in range(random.randrange(500)))))


BYTES = (flip_bits, flip_bits, truncate, delete, duplicate, splice, insert, overwrite, number_field,
         number_field, not_a_number)


def damage(random: random.Random, data: bytes, more: Sequence[Way] = ()) -> bytes:
    """``data`` damaged once to a few times, in ways that know nothing of it or as ``more`` does."""
    if not random.randrange(60):
        return garbage(random, data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(BYTES if not more or random.randrange(3) == 0 else more)(random, data)
    return data


def _lines(text: str) -> List[str]:
    return text.splitlines(keepends=True) or [""]


def delete_line(random: random.Random, text: str) -> str:
    lines = _lines(text)
    del lines[random.randrange(len(lines))]
    return "".join(lines)


def duplicate_line(random: random.Random, text: str) -> str:
    lines = _lines(text)
    lines.insert(random.randrange(len(lines) + 1),
                 random.choice(lines) * random.choice((1, 1, 2, 1000)))
    return "".join(lines)


def swap_lines(random: random.Random, text: str) -> str:
    lines = _lines(text)
    random.shuffle(lines)
    return "".join(lines)


def change_number(random: random.Random, text: str) -> str:
    places = list(re.finditer(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text))
    if not places:
        return text + random.choice(NUMBERS)
    place = random.choice(places)
    return text[:place.start()] + random.choice(NUMBERS) + text[place.end():]


def change_field(random: random.Random, text: str) -> str:
    places = list(re.finditer(r"[^\s,]+", text))
    if not places:
        return text + random.choice(NAMES)
    place = random.choice(places)
    return text[:place.start()] + random.choice(NAMES) + text[place.end():]


def change_separator(random: random.Random, text: str) -> str:
    places = list(re.finditer(r"[\s,]", text))
    if not places:
        return text
    place = random.choice(places)
    return text[:place.start()] + random.choice(("", "\t", " ", ",", "\n", "\r\n", "\r", "\0", ";",
                                                 '"', "\t\t", "\ufeff")) + text[place.end():]


TEXTS = (delete_line, duplicate_line, swap_lines, change_number, change_number, change_field,
         change_separator)


def damage_text(random: random.Random, data: bytes, outside: str) -> bytes:
    """Text damaged line by line and field by field, and sometimes as bytes."""
    if not random.randrange(5):
        return damage(random, data)
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        text = random.choice(TEXTS)(random, text)
    return text.replace("{outside}", outside).encode("utf-8", "surrogateescape")


def damage_json(random: random.Random, data: bytes, values: Values) -> bytes:
    """JSON with some of its values replaced by ``values``, removed or repeated."""
    document = json.loads(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _damage_value(random, document, values)
    return json.dumps(document).encode()


def _damage_value(random: random.Random, document: Any, values: Values) -> None:
    parent = document
    while True:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(parent[key], (dict, list)) and parent[key] and random.randrange(12):
            parent = parent[key]
            continue
        break
    what = random.randrange(8)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, list):
        parent.insert(random.randrange(len(parent) + 1), json.loads(json.dumps(parent[key])))
    elif what == 2 and isinstance(parent, dict):
        parent[random.choice(values["keys"])] = parent.pop(key)
    elif isinstance(parent[key], str):
        parent[key] = random.choice(values["texts"])
    elif isinstance(parent[key], int):
        parent[key] = random.choice(EXTREMES + (-1, -2, 3, parent[key] + 1, parent[key] - 1, 1.5,
                                                None, True, "0"))
    else:
        parent[key] = random.choice((None, [], {}, 0, -1, "x", [[]], [None], [{}], 1e400))


def seeded(*what: object) -> random.Random:
    """A generator that depends on ``what`` only, the same in every version of Python."""
    return random.Random("-".join(map(str, what)))
