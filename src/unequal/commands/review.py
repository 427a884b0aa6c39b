"""``unequal review``: a page on this machine to decide about suspected pictures, by keyboard."""
import argparse
import csv
import hmac
import http.server
import json
import logging
import os
import secrets
import socket
import threading
import time
import urllib.parse
from collections import OrderedDict
from contextlib import suppress
from importlib import resources
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from unequal.data import copying, noise_lists
from unequal.data import pictures as images
from unequal.data.decisions import DECISIONS, Decision, DecisionFile
from unequal.data.identities import read_names
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.system.files import MAX_TABLE, bounded_lines, open_input
from unequal.system.text import say

logger = logging.getLogger(__name__)

TYPICAL = 6  # pictures shown beside a suspect, of each of the two labels
_MAX_BODY = 1000  # bytes of a decision
_MAX_SUSPECTS = 1 << 21  # rows of the table
_CACHED = 512  # pictures kept as the page gets them
_CONNECTIONS = 32  # at once; a browser opens six for a page
_SECONDS = 60.0  # longest time of a connection


class Suspect(NamedTuple):
    """A row of the table that `unequal noise` writes beside its list."""

    key: int
    label: int
    kind: str
    suggested: Optional[int]
    confidence: float


def read_suspects(path: str) -> List[Suspect]:
    """The suspects of a noise list: from ``PATH.csv`` where there is one, else from the list.

    Raises
    ------
    InputError
        When neither is there, or a row makes no sense.
    """
    table = path if path.endswith(".csv") else path + ".csv"
    if not os.path.exists(table):
        if not os.path.exists(path):
            raise InputError(f"{path}: no such file; `unequal noise` makes the list.")
        labels, keys = noise_lists.read_list(path)
        return [Suspect(int(key), int(label), "listed", None, 0.0)
                for label, key in zip(labels, keys)]
    suspects: List[Suspect] = []
    with open_input(table, MAX_TABLE, encoding="utf-8", errors="surrogateescape",
                    newline="") as file:
        rows = csv.DictReader(bounded_lines(file, table))
        try:
            for row in rows:
                suggested = row.get("suggested_label") or ""
                confidence = float(row.get("confidence") or 0)
                suspects.append(Suspect(
                    int(row["key"]), int(row["label"]), str(row["kind"]),
                    int(suggested) if suggested else None,
                    confidence if np.isfinite(confidence) else 0.0))
                if len(suspects) > _MAX_SUSPECTS:
                    raise InputError(f"{table}: has more than {_MAX_SUSPECTS:,} rows; nobody "
                                     "reviews so many.")
        except (KeyError, TypeError, ValueError, csv.Error):
            raise InputError(
                f"{table}, line {rows.reader.line_num}: expected the columns key, path, label, "
                "kind, suggested_label, confidence, as `unequal noise` writes them.") from None
    return suspects


class Review:
    """Answers the page's requests: suspects, typical pictures, decisions. Thread-safe.

    Memory: about 300 bytes a suspect, 24 bytes an image of the set (its keys by class), 512
    pictures.

    Parameters
    ----------
    records : RecordSet
    suspects : list of Suspect
    decisions : DecisionFile
    """

    def __init__(self, records: RecordSet, suspects: List[Suspect],
                 decisions: DecisionFile) -> None:
        self._records, self._decisions = records, decisions
        self._lock, self._decoding = threading.Lock(), threading.Lock()
        self._pictures: "OrderedDict[int, bytes]" = OrderedDict()
        self._names = read_names(records.directory)
        self._keys, ends = copying.keys_by_identity(records)
        begins = np.append(0, ends[:-1])
        self._places = {}  # label -> where its keys lie
        for begin, end in zip(begins, ends):
            label, _ = records.image(int(self._keys[begin]))
            self._places[label] = slice(int(begin), int(end))
        known = set(self._keys.tolist())
        for suspect in suspects:
            if suspect.key not in known:
                raise InputError(f"{records.path}: has no image {suspect.key}, which the list "
                                 "names; give the list that was made of this set.")
        self._suspected = {suspect.key for suspect in suspects}
        self.suspects = self._ordered(suspects)
        self._undone: set = set()

    @staticmethod
    def _ordered(suspects: List[Suspect]) -> List[Suspect]:
        """Suspects grouped by pair of labels, the pair with the surest suspect first.

        A person decides faster on ten pictures of the same two people in a row.
        """
        def pair(suspect: Suspect) -> Tuple:
            return suspect.kind, suspect.label, suspect.suggested if suspect.suggested else -1

        surest: Dict[Tuple, float] = {}
        for suspect in suspects:
            surest[pair(suspect)] = max(surest.get(pair(suspect), 0.0), suspect.confidence)
        return sorted(suspects, key=lambda suspect: (-surest[pair(suspect)], pair(suspect),
                                                     -suspect.confidence, suspect.key))

    def name(self, label: Optional[int]) -> str:
        """The folder a class came from, or its number."""
        if label is None:
            return ""
        name = self._names.get(label, str(label))
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def listing(self) -> Dict[str, Any]:
        """All suspects with their decisions, for the page."""
        with self._lock:
            self._decisions.read()
            return {"suspects": [
                {"key": suspect.key, "label": suspect.label, "name": self.name(suspect.label),
                 "kind": suspect.kind, "suggested": suspect.suggested,
                 "suggested_name": self.name(suspect.suggested),
                 "confidence": suspect.confidence, **self._decided(suspect.key)}
                for suspect in self.suspects]}

    def _decided(self, key: int) -> Dict[str, Any]:
        decision = None if key in self._undone else self._decisions.last.get(key)
        if decision is None:
            return {"decision": "", "decided_label": None, "decided_name": ""}
        return {"decision": decision.decision, "decided_label": decision.label,
                "decided_name": self.name(decision.label)}

    def state(self) -> Dict[str, Any]:
        """Only the decisions, also those of other pages: ``{key: decision}``."""
        with self._lock:
            self._undone -= {decision.key for decision in self._decisions.read()}
            return {"decisions": {str(suspect.key): self._decided(suspect.key)
                                  for suspect in self.suspects}}

    def decide(self, key: int, decision: str, label: Optional[int]) -> None:
        """Write a decision; ``undo`` takes the last one of a picture back.

        In the file, which only grows, a picture whose only decision is taken back is ``unsure``.

        Raises
        ------
        InputError
            When the picture is no suspect, or the class does not exist.
        """
        if key not in self._suspected:
            raise InputError(f"{key} is not on the list")
        if decision == "relabel" and label not in self._places:
            raise InputError(f"the set has no class {label}")
        with self._lock:
            if decision == "undo":
                self._decisions.append(Decision(key, "unsure"))
                self._undone.add(key)
            elif decision in DECISIONS:
                self._decisions.append(
                    Decision(key, decision, label if decision == "relabel" else None))
                self._undone.discard(key)
            else:
                raise InputError(f"there is no decision {decision!r}")

    def typical(self, label: int) -> List[int]:
        """Keys of a few pictures of a class, none of them itself a suspect; evenly spread."""
        keys = [int(key) for key in self._keys[self._places.get(label, slice(0, 0))]
                if int(key) not in self._suspected]
        count = min(TYPICAL, len(keys))
        return [keys[place * len(keys) // count] for place in range(count)]

    def find(self, text: str) -> List[Tuple[int, str]]:
        """Up to 20 classes whose name or number contains ``text``."""
        wanted, found = text.strip().lower(), []
        for label in self._places:
            name = self.name(label)
            if wanted and (wanted in name.lower() or wanted == str(label)):
                found.append((label, name))
                if len(found) == 20:
                    break
        return found

    def picture(self, key: int) -> bytes:
        """A picture of the set as JPEG.

        Raises
        ------
        InputError
            When there is none, or it cannot be decoded.
        """
        with self._lock:
            if key in self._pictures:
                return self._pictures[key]
        place = np.searchsorted(self._records.image_keys, key)
        if place == len(self._records) or self._records.image_keys[place] != key:
            raise InputError(f"no image {key}")
        data = bytes(self._records.image(key)[1])
        # Encoded again, so that the browser gets checked pixels and never the bytes of a file.
        with self._decoding:  # a large one takes half a gigabyte
            data = images.encode(images.decode(data, f"image {key}"), 92)
        with self._lock:
            self._pictures[key] = data
            while len(self._pictures) > _CACHED:
                self._pictures.popitem(last=False)
        return data


def page(nonce: str) -> bytes:
    """The page itself; everything that comes from files reaches it as text, by requests."""
    text = (resources.files("unequal.commands") / "review.html").read_text("utf-8") \
        if hasattr(resources, "files") else resources.read_text("unequal.commands", "review.html",
                                                                encoding="utf-8")
    return text.replace("NONCE", nonce).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers under ``/TOKEN/`` only, to this machine's own address only."""

    server: "Server"
    server_version, sys_version = "unequal", ""
    timeout = 30  # seconds that a connection may stand still

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests are not worth a line each, and their text is untrusted."""

    def _answer(self, code: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {
                "Content-Type": kind, "Content-Length": str(len(body)),
                "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
                "X-Frame-Options": "DENY", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: Any, code: int = 200) -> None:
        self._answer(code, "application/json", json.dumps(value).encode())

    def _path(self) -> Optional[List[str]]:
        """The path's parts after the token; None, and an error is sent, for a foreign request.

        The Host must be this machine's own name: a page of the web whose name was made to point
        here (DNS rebinding) sends its own. The Origin of a request that writes must be this page.
        """
        if self.headers.get("Host", "") not in self.server.hosts:
            self._json({"error": "wrong host"}, 403)
            return None
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {"http://" + host for host in self.server.hosts}:
            self._json({"error": "wrong origin"}, 403)
            return None
        try:
            parts = urllib.parse.urlsplit(self.path).path.split("/")[1:] or [""]
        except ValueError:  # such as http://[/
            parts = [""]
        if not hmac.compare_digest(parts[0].encode("utf-8", "replace"),
                                   self.server.token.encode()):
            self._json({"error": "not found"}, 404)
            return None
        return parts[1:]

    def do_GET(self) -> None:  # noqa: N802  http.server's name
        """The page, what it shows, and pictures."""
        parts = self._path()
        if parts is None:
            return
        review = self.server.review
        try:
            if parts == [""]:
                nonce = secrets.token_urlsafe(16)
                self._answer(200, "text/html; charset=utf-8", page(nonce), Content_Security_Policy=(
                    f"default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src "
                    f"'nonce-{nonce}'; style-src 'nonce-{nonce}'; base-uri 'none'; "
                    "form-action 'none'; frame-ancestors 'none'"))
            elif parts == ["suspects"]:
                self._json(review.listing())
            elif parts == ["state"]:
                self._json(review.state())
            elif len(parts) == 2 and parts[0] == "typical":
                self._json({"keys": review.typical(int(parts[1]))})
            elif len(parts) == 2 and parts[0] == "find":
                self._json({"labels": review.find(urllib.parse.unquote(parts[1]))})
            elif len(parts) == 2 and parts[0] == "image":
                self._answer(200, "image/jpeg", review.picture(int(parts[1])))
            else:
                self._json({"error": "not found"}, 404)
        except (ValueError, OverflowError, InputError) as error:
            self._json({"error": str(error)}, 404)

    def do_POST(self) -> None:  # noqa: N802
        """One decision."""
        parts = self._path()
        if parts is None:
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
            if parts != ["decide"] or not 0 < length <= _MAX_BODY:
                raise ValueError("not a decision")
            said = json.loads(self.rfile.read(length))
            label = said.get("label")
            self.server.review.decide(int(said["key"]), str(said["decision"]),
                                      None if label is None else int(label))
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError,
                InputError) as error:
            self._json({"error": str(error) or "not a decision"}, 400)
            return
        except OSError as error:  # a full disk: the page must not go on as if it were written
            logger.error("%s: %s", self.server.review._decisions.path, error.strerror)
            self._json({"error": f"the decision cannot be written: {error.strerror}"}, 500)
            return
        self._json(self.server.review.state())


class Server(http.server.ThreadingHTTPServer):
    """On the loopback address, one thread a connection; of these there are at most
    :data:`_CONNECTIONS`, each for :data:`_SECONDS` at most, whoever on this machine opens them."""

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        self._begun: Dict[Any, float] = {}  # connection -> when
        super().__init__(("127.0.0.1", port), Handler)
        self.review = review
        self.token = secrets.token_urlsafe(16)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def server_bind(self) -> None:
        """Without the look-up of this machine's name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, where there is room for one."""
        if len(self._begun) >= _CONNECTIONS:
            self.shutdown_request(request)
            return
        self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection."""
        self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second: end what takes too long, a byte now and then."""
        for request, begin in list(self._begun.items()):
            if time.monotonic() - begin > _SECONDS:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that goes away in the middle is no fault."""


def port(text: str) -> int:
    """A port, 0 to 65535."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``unequal review``."""
    parser.add_argument("directory", metavar="DIR", help="the record set")
    parser.add_argument("suspects", metavar="LIST", help="what `unequal noise` wrote (--out)")
    parser.add_argument("--out", required=True, metavar="DECISIONS",
                        help="CSV to which each decision is appended at once")
    parser.add_argument("--port", type=port, default=0, help="default: a free one")


def run(options: argparse.Namespace) -> None:
    """``unequal review``: serves until Ctrl-C."""
    suspects = read_suspects(options.suspects)
    if not suspects:
        raise InputError(f"{options.suspects}: lists no picture, so there is nothing to review.")
    with RecordSet(options.directory) as records:
        review = Review(records, suspects, DecisionFile(options.out))
        try:
            server = Server(review, options.port)
        except OSError as error:
            raise InputError(f"--port {options.port}: {error.strerror}; choose another, or leave "
                             "it out.") from None
        decided = sum(bool(entry["decision"]) for entry in review.listing()["suspects"])
        say(f"{len(suspects)} suspects, {decided} decided; open {server.address} in a browser "
            "of this machine, Ctrl-C ends")
        with server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                pass
        state = review.listing()["suspects"]
        counts = {name: sum(entry["decision"] == name for entry in state) for name in DECISIONS}
        say(f"{options.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
            + f", {len(state) - sum(counts.values())} undecided; "
            f"`unequal denoise {options.directory} {options.out} OUT` applies them")
