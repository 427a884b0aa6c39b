"""The arms that real_faces.py runs and its page shows, which lines are wanted, their format."""
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

TARGETS = ("cfp_ff", "cfp_fp")
SCALE, MARGIN = 32.0, 0.3

# The regime (docs/study.md): the margin comes when the people are half known, as a margin that is
# there from the first batch keeps noisy labels from being learnt at all.
NETWORK = ("--network", "n8", "--emb-size", "128", "--loss-type", "4", "--margin-s",
           f"{SCALE:g}", "--patience", "0", "--end-epoch", "100000")
WARM = ("--margin-m", "0", "--per-batch-size", "128", "--lr", "0.1", "--lr-steps", "100000",
        "--max-steps", "500", "--verbose", "500")
ARCFACE = ("--margin-m", f"{MARGIN:g}", "--per-batch-size", "128", "--lr", "0.1",
           "--lr-steps", "700,900", "--max-steps", "1000", "--verbose", "250", "--ckpt", "2")
FINE = ("--margin-m", f"{MARGIN:g}", "--per-batch-size", "128", "--lr", "0.02",
        "--lr-steps", "400", "--max-steps", "500", "--verbose", "250")
TAIL = ("--margin-m", f"{MARGIN:g}", "--noise-beta", "0.5", "--lr", "0.002",
        "--batch-size1", "96", "--batchsize_id", "48", "--bag-size", "360", "--bags", "50",
        "--images-per-identity", "2", "--verbose", "100", "--max-steps")


class Arm(NamedTuple):
    """How an arm's model is made.

    Attributes
    ----------
    parent : str, optional
        The arm whose last checkpoint it starts from, and not the one that the validation people
        chose: that may be a model which does not know its own people yet (docs/study.md).
    script : str
    flags : tuple of str
    data : str
        A method of :class:`real_faces.Cell` that makes the training set and returns its directory.
    noise_list : str, optional
        A method of :class:`real_faces.Cell` that makes the list of the images to leave out.
    start : str, optional
        A method of :class:`real_faces.Cell` that makes the checkpoint to start from of the
        parent's (the dominant centres of it, or an earlier one of the same training).
    tail : bool
    """

    parent: Optional[str]
    script: str
    flags: Tuple[str, ...]
    data: str = "noisy"
    noise_list: Optional[str] = None
    start: Optional[str] = None
    tail: bool = False


EARLY = 2  # the ArcFace checkpoint after 500 of its 1,000 batches


def _nra(beta: str, mean: bool, **more: Any) -> Arm:
    return Arm("ArcFace", "train_relusoft.py",
               FINE + ("--noise-beta", beta) + (("--mean-loss", "1") if mean else ()), **more)


def _tail(weights: str, *flags: str) -> Arm:
    # Each weight of a list gets its share of 300 updates.
    steps = str(300 // len(weights.split(",")))
    return Arm("NRA 0.5, early", "train_unequal.py",
               TAIL + (steps, "--interweight", weights) + flags,
               data="without_early_list", tail=True)


LISTS = ("margin", "early", "reference", "sub-centers")  # noise lists, by what makes them
BETAS = ("0.9", "0.8", "0.7", "0.5", "0.3")
ARMS: Dict[str, Arm] = {
    "margin 0": Arm(None, "train_softmax.py", WARM),
    "ArcFace": Arm("margin 0", "train_softmax.py", ARCFACE),
    # From the last model: whether a method still helps when the wrong labels are learnt.
    "continued": Arm("ArcFace", "train_softmax.py", FINE),
    **{"NRA " + beta: _nra(beta, True) for beta in ("0.9", "0.5", "0.3")},
    "list dropped": Arm("ArcFace", "train_softmax.py", FINE, data="without_list"),
    "NRA 0.5, list dropped": _nra("0.5", True, noise_list="margin_list"),
    # From the model half-way, which has not learnt as many wrong labels yet.
    "continued, early": Arm("ArcFace", "train_softmax.py", FINE, start="early"),
    # NRA 1 is what learning the classifier anew does by itself: NRA without its second term.
    **{f"NRA {beta}, early": _nra(beta, True, start="early") for beta in ("1",) + BETAS},
    **{f"NRA {beta}, reference's scale, early": _nra(beta, False, start="early")
       for beta in BETAS},
    "list dropped, early": Arm("ArcFace", "train_softmax.py", FINE, data="without_early_list",
                               start="early"),
    "reference's list dropped, early": Arm("ArcFace", "train_softmax.py", FINE,
                                           data="without_reference_list", start="early"),
    "list relabelled, early": Arm("ArcFace", "train_softmax.py", FINE, data="relabelled",
                                  start="early"),
    "NRA 0.5, list dropped, early": _nra("0.5", True, noise_list="early_list", start="early"),
    "NRA 0.5, reference's list dropped, early": _nra("0.5", True, noise_list="reference_list",
                                                     start="early"),
    # Sub-center ArcFace (Deng et al., ECCV 2020), and its drop of centres and images, half-way too.
    "margin 0, 3 sub-centers": Arm(None, "train_softmax.py", WARM + ("--sub-centers", "3")),
    "3 sub-centers": Arm("margin 0, 3 sub-centers", "train_softmax.py",
                         ARCFACE + ("--sub-centers", "3")),
    "3 sub-centers, dropped": Arm("3 sub-centers", "train_softmax.py", FINE,
                                  data="without_sub_center_list", start="dominant_centers"),
    "tail, weight 0, early": _tail("0"),
    "tail, random, weight 1, early": _tail("1", "--mining", "0"),
    "tail, weight 1, early": _tail("1"),
    "tail, weights 1, 5, early": _tail("1,5"),
    "tail, weights 1, 5, 10, early": _tail("1,5,10"),
    "tail as classes, early": _nra("0.5", True, data="with_tail_classes", start="early"),
}

_LAST = ("continued", "NRA 0.5", "NRA 0.3", "NRA 0.9", "list dropped", "NRA 0.5, list dropped")
_FIRST = ("margin 0", "ArcFace", "continued, early", "NRA 0.5, early", "NRA 0.3, early",
          "NRA 0.9, early", "list dropped, early", "NRA 0.5, list dropped, early")
_TAIL = ("tail, weight 0, early", "tail, weight 1, early", "tail, random, weight 1, early",
         "tail, weights 1, 5, 10, early")
_SPECIAL = ("NRA 1, early",)
_OTHERS = tuple(arm for arm in ARMS if arm not in _LAST + _FIRST + _TAIL + _SPECIAL)
SEEDS = (0, 1, 2)


class Key(NamedTuple):
    """Which line of the results: one arm of one noisy set."""

    kind: str  # uniform or structured
    rate: float  # flips
    seed: int
    arm: str


def order() -> Iterator[Key]:
    """All lines the study wants, the most telling first."""
    def block(kind: str, rates: Sequence[float], arms: Sequence[str]) -> Iterator[Key]:
        for rate in rates:
            for seed in SEEDS:
                for arm in arms:
                    yield Key(kind, rate, seed, arm)

    yield from block("uniform", (0.4,), _FIRST + _TAIL)
    yield from block("structured", (0.4,), _FIRST)
    yield from block("uniform", (0.0,), _FIRST + _TAIL)
    yield from block("uniform", (0.2, 0.6), _FIRST)
    yield from block("uniform", (0.4,), _SPECIAL + _LAST)
    yield from block("structured", (0.2, 0.6), _FIRST)
    yield from block("uniform", (0.4,), _OTHERS)
    yield from block("structured", (0.4,), _TAIL + _SPECIAL + _OTHERS)
    yield from block("uniform", (0.2, 0.6, 0.0), _TAIL + _OTHERS)
    yield from block("structured", (0.2, 0.6), _TAIL + _OTHERS)


def wanted() -> List[Key]:
    """:func:`order` without repetitions."""
    return list(dict.fromkeys(order()))


def read_results(path: Path) -> Dict[Key, Dict[str, Any]]:
    """The lines that are there; a half-written last one (a kill) is no line."""
    found = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            found[Key(line["kind"], line["rate"], line["seed"], line["arm"])] = line
    return found


def packed(bits: np.ndarray) -> str:
    """Booleans as hexadecimal text."""
    return np.packbits(np.asarray(bits, bool)).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """The first ``count`` booleans of :func:`packed`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:count].astype(bool)
