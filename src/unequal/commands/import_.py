"""``unequal import``: published face sets as record sets and verification sets (docs/data.md).

LFW and CFP come as folders of pictures with lists of pairs, InsightFace's packs as record sets.
Nothing is downloaded: the sets have terms of their own, to which you agree where you get them.
"""
import argparse
import contextlib
import errno
import logging
import lzma
import os
import re
import shutil
import tarfile
import zlib
from typing import (
    AbstractSet,
    Any,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np

from unequal.commands.arguments import add_picture_options
from unequal.data import copying
from unequal.data import pictures as images
from unequal.data.convert import Picture, Settings, pack_pictures, read_pairs, write_pairs
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.eval.bins import load_bin
from unequal.system.files import (
    MAX_TABLE,
    bounded_lines,
    open_input,
    replacing_path,
    temporary_folder,
)
from unequal.system.text import say

logger = logging.getLogger(__name__)

# Where a picture stands, wherever the archive's folders begin.
_LFW = re.compile(r"(?:^|.*/)(?P<inner>(?P<who>[^/.][^/]*)/(?P=who)_\d{4}\.(?:jpe?g|png|ppm|pgm))$")
_CFP = re.compile(r"(?:^|.*/)(?P<inner>(?P<who>\d{3})/(?:frontal|profile)/\d\d\.(?:jpe?g|png))$")
_CFP_ROW = re.compile(r"(\d+)\s+\S*?(\d{3}/(?:frontal|profile)/\d\d)\.\w+$")
_CFP_SPLITS = 10
# View 2 has the ten folds that papers report; View 1 is for choosing.
_LFW_LISTS = {"lfw": "pairs.txt", "lfw_dev_train": "pairsDevTrain.txt",
              "lfw_dev_test": "pairsDevTest.txt"}
_MAX_NAME = 1 << 14  # bytes of an entry's name in an archive
_MAX_GROWTH = 20  # of an archive that is unpacked; pictures hardly compress
_PLAIN = "r:"
_COMPRESSED = {b"\x1f\x8b": "r:gz", b"BZh": "r:bz2", b"\xfd7zXZ\0": "r:xz"}  # by the first bytes
_MIN_ROOM = 1 << 28  # bytes that any archive may have unpacked
_LOOKED_AT = 64  # pictures of a pack that are decoded, spread over it


class Source(NamedTuple):
    """Pictures of a published set: below ``root``, those of one person under one name."""

    root: str
    people: Dict[str, List[str]]  # who -> paths below root, both sorted


@contextlib.contextmanager
def opened(path: str, pattern: "re.Pattern[str]", what: str, out: str) -> Iterator[Source]:
    """The pictures of a folder or a ``.tar`` (``.tgz``) whose names match ``pattern``.

    An archive is unpacked into a temporary folder beside ``out``, its pictures only, under the
    matched part of their names: no entry can reach elsewhere.

    Raises
    ------
    InputError
        When there is none; ``what`` says how they should be called.
    """
    with contextlib.ExitStack() as stack:
        if os.path.isdir(path):
            found: Dict[str, Dict[str, List[str]]] = {}
            for folder, _, names in os.walk(path):
                for name in names:
                    match = pattern.match(os.path.join(folder, name).replace(os.sep, "/"))
                    if match:
                        root = os.path.join(folder, name)[:-len(match["inner"])]
                        found.setdefault(root, {}).setdefault(match["who"], []).append(
                            match["inner"])
            if len(found) > 1:
                raise InputError(f"{path}: holds several sets of pictures "
                                 f"({', '.join(sorted(found)[:3])}); name one.")
            root, people = found.popitem() if found else (path, {})
        else:
            root = stack.enter_context(temporary_folder(out))
            people = _unpack(path, pattern, root)
        if not people:
            raise InputError(f"{path}: holds no picture called like {what}; give the folder or the "
                             ".tar as it was published.")
        yield Source(root, {who: sorted(people[who]) for who in sorted(people)})


class _Member(tarfile.TarInfo):
    """An entry whose header is believed only as far as a set of pictures needs: Python's reader
    takes names of any announced length into memory."""

    _NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
              tarfile.SOLARIS_XHDTYPE)

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Member":
        """As :class:`tarfile.TarInfo`'s, refusing what no such set holds."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in cls._NAMES and member.size > _MAX_NAME:
            raise tarfile.ReadError(f"a name of {member.size:,} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a file with holes")
        return member


def _unpack(path: str, pattern: "re.Pattern[str]", root: str) -> Dict[str, List[str]]:
    """Unpack the pictures of an archive; see :func:`opened`. A few bytes of one can announce any
    number: the pictures and all entries' headers have at most :data:`_MAX_GROWTH` times its size.
    A name that comes again is one picture, the last of that name, as everywhere with archives."""
    people: Dict[str, Dict[str, None]] = {}
    with open_input(path) as packed:
        facts = os.fstat(packed.fileno())
        room = max(_MIN_ROOM, _MAX_GROWTH * facts.st_size)
        start = packed.read(6)
        packed.seek(0)
        # By its first bytes: tried in turn, zeros are a compressed file of no length, one after
        # the other. Those readers look at each byte of what follows their data, too.
        mode: Any = next((mode for magic, mode in _COMPRESSED.items() if start.startswith(magic)),
                         _PLAIN)
        if mode != _PLAIN and 4 * 512 * facts.st_blocks < facts.st_size:
            raise InputError(f"{path}: is mostly a hole; copy it again.")
        try:
            with tarfile.open(fileobj=packed, mode=mode, tarinfo=_Member) as archive:
                for member in archive:
                    # Else one of each entry stays in memory.
                    archive.members.clear()  # type: ignore[attr-defined]
                    match = pattern.match(member.name)
                    wanted = (match and member.isfile() and not member.issparse()
                              and os.pardir not in match["inner"].split("/"))
                    room -= tarfile.BLOCKSIZE + (member.size if wanted else 0)
                    if room < 0 or wanted and member.size > images.MAX_BYTES:
                        raise InputError(f"{path}: {member.name} has {member.size:,} bytes, more "
                                         "than a picture, or the archive has far more than its "
                                         "size; unpack it and give the folder.")
                    if not match or not wanted:
                        continue
                    target = os.path.join(root, match["inner"])
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    content = archive.extractfile(member)
                    assert content is not None  # of a plain file
                    with open(target, "wb") as file:
                        shutil.copyfileobj(content, file)
                    people.setdefault(match["who"], {})[match["inner"]] = None
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError,
                OverflowError) as error:
            raise InputError(f"{path}: not a whole .tar archive ({error}); copy it "
                             "again.") from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise InputError(f"{path}: not a whole .tar archive ({error.strerror or error}); copy "
                             "it again.") from None
    return {who: list(paths) for who, paths in people.items()}


def write_people(source: Source, directory: str, settings: Settings, processes: int,
                 chosen: Sequence[str]) -> Tuple[int, int]:
    """A record set of the people ``chosen``; returns pictures and people written."""
    pictures = (Picture(path, who) for who in chosen for path in source.people[who])
    count, people, skipped, _ = pack_pictures(
        pictures, directory, settings._replace(root=source.root), processes)
    if skipped:
        logger.warning("%s: %d pictures skipped (problems.csv)", directory, skipped)
    return count, people


def left_out(path: Optional[str]) -> Set[str]:
    """Names in the last column (tabs) of each line of a file; nobody without one."""
    if not path:
        return set()
    with open_input(path, MAX_TABLE, encoding="utf-8", errors="surrogateescape") as file:
        return {line.rstrip("\r\n").split("\t")[-1] for line in bounded_lines(file, path)
                if line.strip()}


def choose(source: Source, minimum: int = 1, maximum: int = 0,
           without: AbstractSet[str] = frozenset()) -> List[str]:
    """People with so many pictures (``maximum`` 0: any number) who are not in ``without``."""
    return [who for who, paths in source.people.items()
            if minimum <= len(paths) and (not maximum or len(paths) <= maximum)
            and who not in without]


def protocol_folder(path: str, given: Optional[str], file: str) -> Optional[str]:
    """The folder that holds the protocol's ``file``: below ``given``, or below or beside ``path``.

    Returns None when it is nowhere.
    """
    beside = os.path.dirname(os.path.abspath(path))
    places = [given] if given else [
        *([path] if os.path.isdir(path) else []), beside, os.path.join(beside, "protocol")]
    for place in places:
        for inner in ("", "Protocol", "protocol", "cfp", os.path.join("cfp-dataset", "Protocol")):
            if os.path.isfile(os.path.join(place, inner, file)):
                return os.path.join(place, inner)
    return None


def _check_found(options: argparse.Namespace, found: bool) -> None:
    if options.protocol and not found:
        raise InputError(f"--protocol {options.protocol}: holds none of the published lists of "
                         f"{options.set}; give the folder they are in.")


def cfp_pairs(folder: str, kind: str, splits: Sequence[int]) -> List[Tuple[str, str, bool]]:
    """CFP's pairs of some splits, in the published order, as paths without extension.

    Parameters
    ----------
    folder : str
        With ``Pair_list_F.txt``, ``Pair_list_P.txt`` and ``Split/FF/01/same.txt`` or
        ``FF/01/same.txt``.
    kind : str
        ``FF`` (frontal to frontal) or ``FP`` (frontal to profile).
    splits : sequence of int
        1 to 10.
    """
    rows: Dict[str, Dict[int, str]] = {}
    for side in "FP":
        path = os.path.join(folder, f"Pair_list_{side}.txt")
        rows[side] = {}
        with open_input(path, MAX_TABLE, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(filter(str.strip, bounded_lines(file, path)), 1):
                match = _CFP_ROW.match(line.strip())
                if not match:
                    raise InputError(f"{path}, line {number}: expected `number "
                                     ".../001/frontal/01.jpg`; copy the file again.")
                rows[side][int(match[1])] = match[2]
    inner = "Split" if os.path.isdir(os.path.join(folder, "Split")) else ""
    pairs = []
    for number in splits:
        for answer in ("same", "diff"):
            path = os.path.join(folder, inner, kind, f"{number:02d}", answer + ".txt")
            with open_input(path, MAX_TABLE, encoding="ascii", errors="replace") as file:
                for place, line in enumerate(filter(str.strip, bounded_lines(file, path)), 1):
                    try:
                        first, second = (int(field) for field in line.split(","))
                        pairs.append((rows["F"][first], rows[kind[1]][second], answer == "same"))
                    except (ValueError, KeyError):
                        raise InputError(f"{path}, line {place}: expected two rows of the lists of "
                                         "pictures, such as 4,7; copy the file again.") from None
    return pairs


def _span(text: str) -> Tuple[int, int]:
    """``1-150`` or ``4`` from the command line."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not match or not 1 <= int(match[1]) <= int(match[2] or match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range such as 1-150")
    return int(match[1]), int(match[2] or match[1])


def _lfw(options: argparse.Namespace, settings: Settings) -> None:
    with opened(options.source, _LFW, "Ann_Lee/Ann_Lee_0001.jpg", options.directory) as source:
        without = left_out(options.without)
        unknown = sorted(without - set(source.people))
        if unknown:
            raise InputError(f"{options.without}: {len(unknown)} people are not in the set, "
                             f"{unknown[0]} first; give LFW's folder names in the last column.")
        folders = {name: protocol_folder(options.source, options.protocol, file)
                   for name, file in _LFW_LISTS.items()}
        _check_found(options, any(folders.values()))
        chosen = choose(source, options.min_images, options.max_images, without)
        count = write_people(source, options.directory, settings, options.processes, chosen)
        say(f"{options.directory}: {count[0]} images of {count[1]} people")
        for name, file in _LFW_LISTS.items():
            folder = folders[name]
            if folder is None:
                logger.warning("%s: not found, so no %s.bin; --protocol names its folder", file,
                               name)
                continue
            path, out = os.path.join(folder, file), os.path.join(options.directory, name + ".bin")
            pairs, _ = read_pairs(path, source.root)
            same = write_pairs(
                pairs, path, source.root, out, settings._replace(root=source.root),
                options.processes, keep_order=name == "lfw")[1]
            say(f"{out}: {len(pairs)} pairs, {same} same")


def _cfp(options: argparse.Namespace, settings: Settings) -> None:
    with opened(options.source, _CFP, "001/frontal/01.jpg", options.directory) as source:
        low, high = options.people or (1, 999)
        folder = protocol_folder(options.source, options.protocol, "Pair_list_F.txt")
        _check_found(options, folder is not None)
        chosen = [who for who in choose(source, options.min_images, options.max_images)
                  if low <= int(who) <= high]
        if not chosen:
            raise InputError(f"--people {low}-{high}: nobody of them is in {options.source}; it "
                             f"has {min(source.people)} to {max(source.people)}.")
        count = write_people(source, options.directory, settings, options.processes, chosen)
        say(f"{options.directory}: {count[0]} images of {count[1]} people")
        if folder is None:
            logger.warning("Pair_list_F.txt: not found, so no .bin; --protocol names its folder")
            return
        there = [number for number in range(1, _CFP_SPLITS + 1)
                 if _cfp_split_is_there(folder, number)]
        low, high = options.splits or (1, _CFP_SPLITS)
        splits = [number for number in there if low <= number <= high]
        if not splits:
            raise InputError(f"--splits {low}-{high}: {folder} has {there or 'none'}.")
        files = {os.path.splitext(path)[0]: path
                 for paths in source.people.values() for path in paths}
        for kind in ("FF", "FP"):
            pairs = [(files.get(first, first + ".jpg"), files.get(second, second + ".jpg"), same)
                     for first, second, same in cfp_pairs(folder, kind, splits)]
            out = os.path.join(options.directory, f"cfp_{kind.lower()}.bin")
            same = write_pairs(
                pairs, os.path.join(folder, kind), source.root, out,
                settings._replace(root=source.root), options.processes,
                keep_order=len(splits) == _CFP_SPLITS)[1]
            folds = " (the published folds)" if len(splits) == _CFP_SPLITS else ""
            say(f"{out}: {len(pairs)} pairs, {same} same, splits "
                f"{', '.join(map(str, splits))}{folds}")


def _cfp_split_is_there(folder: str, number: int) -> bool:
    return any(os.path.isfile(os.path.join(folder, inner, "FF", f"{number:02d}",
                                           "same.txt")) for inner in ("Split", ""))


def check_pack(directory: str) -> List[str]:
    """Look at an InsightFace pack: sentences about what it holds.

    Every index entry and identity record is read, and :data:`_LOOKED_AT` pictures are decoded;
    `unequal inspect` looks at all of them.

    Raises
    ------
    InputError
        When a file is missing or does not fit the others.
    """
    for name in ("train.rec", "train.idx", "property"):
        if not os.path.isfile(os.path.join(directory, name)):
            raise InputError(f"{directory}: {name} is missing; give the unpacked folder of an "
                             "InsightFace pack.")
    with RecordSet(directory) as records:
        _, ends = copying.keys_by_identity(records)
        counts = np.diff(ends, prepend=0)
        keys = records.image_keys
        places = np.unique(np.linspace(0, len(keys) - 1, _LOOKED_AT).astype(np.int64))
        for key in keys[places]:
            _, data = records.image(key)
            images.decode(data, f"{records.path}: record {key}", *records.image_size)
        if len(counts) > records.num_classes:
            raise InputError(f"{directory}: {len(counts)} identities, but property has "
                             f"{records.num_classes} classes; correct it.")
        facts = [
            f"{len(records):,} images of {len(counts):,} identities ({records.num_classes:,} "
            f"classes in property), {'x'.join(map(str, records.image_size))}",
            f"images per identity: {counts.min()} to {counts.max()}, mean {counts.mean():.1f}; "
            f"fewer than 10: {int((counts < 10).sum()):,} identities"]
        path = os.path.join(directory, "train.lst")
        if os.path.isfile(path):
            with open_input(path, MAX_TABLE) as lines:
                listed = sum(1 for _ in lines)
            verdict = "" if listed == len(records) else ", not one an image: left out"
            facts.append(f"train.lst: {listed:,} lines{verdict}")
    return facts


def _pack(options: argparse.Namespace, _: Settings) -> None:
    source, directory = options.source, options.directory
    if not os.path.isdir(source):
        raise InputError(f"{source}: no such folder; give the unpacked folder of an InsightFace "
                         "pack.")
    for fact in check_pack(source):
        say(fact)
    sets = {}
    for name in sorted(os.listdir(source)):
        if name.endswith(".bin"):
            pictures, issame = load_bin(os.path.join(source, name))
            height, width = images.decode(
                pictures[0], f"{os.path.join(source, name)}, picture 0").shape[:2]
            sets[name] = (f"{name}: {len(issame):,} pairs, {int(issame.sum()):,} same, "
                          f"{height}x{width}")
    head, tail = (os.path.join(directory, side) for side in ("head", "tail"))
    sides = copying.split(source, head, tail, options.head_min_images)
    for target, (count, identities) in zip((head, tail), sides):
        say(f"{target}: {count:,} images of {identities:,} identities")
    for name, fact in sets.items():
        with replacing_path(os.path.join(directory, "eval_dataset", name)) as temporary:
            shutil.copyfile(os.path.join(source, name), temporary)
        say("eval_dataset/" + fact)


# name -> (what makes it, what it reads)
SETS = {"lfw": _lfw, "cfp": _cfp, "insightface": _pack}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal import``."""
    parser.add_argument("set", choices=sorted(SETS),
                        help="lfw: Labeled Faces in the Wild; cfp: Celebrities in Frontal-Profile; "
                             "insightface: a pack such as faces_webface_112x112, faces_emore, "
                             "ms1m-retinaface")
    parser.add_argument("source", metavar="SRC",
                        help="the folder or the .tar as published; insightface: the folder")
    parser.add_argument("directory", metavar="DIR",
                        help="made: the record set with its .bin files; insightface: DIR/head, "
                             "DIR/tail, DIR/eval_dataset")
    add_picture_options(parser)
    parser.add_argument("--protocol", metavar="DIR",
                        help="folder of the published lists of pairs (default: in or beside SRC)")
    parser.add_argument("--min-images", type=int, default=1, metavar="N",
                        help="lfw, cfp: people with N pictures or more (default 1)")
    parser.add_argument("--max-images", type=int, default=0, metavar="N",
                        help="lfw, cfp: people with N pictures or fewer (default 0: any number)")
    parser.add_argument("--without", metavar="FILE",
                        help="lfw: leave out the people whose folders the last column names")
    parser.add_argument("--people", type=_span, metavar="A-B",
                        help="cfp: the people of the record set (default: all)")
    parser.add_argument("--splits", type=_span, metavar="A-B",
                        help="cfp: the splits of the .bin files (default: all that are there)")
    parser.add_argument("--head-min-images", type=int, default=10, metavar="N",
                        help="insightface: identities with N images or more are head (default 10)")


def run(options: argparse.Namespace) -> None:
    """``unequal import``."""
    if not os.path.exists(options.source):
        raise InputError(f"{options.source}: no such folder or archive.")
    copying.check_different(options.source, options.directory)
    SETS[options.set](options, Settings(options.directory, options.size, options.quality))
