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
        The arm whose last checkpoint it starts from. Under much noise the validation people prefer
        an early one, of a model that does not know its own people yet (docs/study.md).
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


def _tail(weights: str, *flags: str, early: bool = False) -> Arm:
    # Each weight of a list gets its share of 300 updates.
    steps = str(300 // len(weights.split(",")))
    return Arm("NRA 0.5, early" if early else "NRA 0.5", "train_unequal.py",
               TAIL + (steps, "--interweight", weights) + flags,
               data="without_early_list" if early else "without_list", tail=True)


LISTS = ("margin", "early", "reference", "sub-centers")  # noise lists, by what makes them
BETAS = ("0.9", "0.8", "0.7", "0.5", "0.3")
ARMS: Dict[str, Arm] = {
    "margin 0": Arm(None, "train_softmax.py", WARM),
    "ArcFace": Arm("margin 0", "train_softmax.py", ARCFACE),
    "continued": Arm("ArcFace", "train_softmax.py", FINE),
    **{"NRA " + beta: _nra(beta, True) for beta in BETAS},
    **{f"NRA {beta}, reference's scale": _nra(beta, False) for beta in BETAS},
    # What learning the classifier anew does by itself: NRA without its second term.
    "NRA 1": _nra("1", True),
    "list dropped": Arm("ArcFace", "train_softmax.py", FINE, data="without_list"),
    "reference's list dropped": Arm("ArcFace", "train_softmax.py", FINE,
                                    data="without_reference_list"),
    "list relabelled": Arm("ArcFace", "train_softmax.py", FINE, data="relabelled"),
    "NRA 0.5, list dropped": _nra("0.5", True, noise_list="margin_list"),
    "NRA 0.5, reference's list dropped": _nra("0.5", True, noise_list="reference_list"),
    # Sub-center ArcFace (Deng et al., ECCV 2020), and its drop of centres and images.
    "margin 0, 3 sub-centers": Arm(None, "train_softmax.py", WARM + ("--sub-centers", "3")),
    "3 sub-centers": Arm("margin 0, 3 sub-centers", "train_softmax.py",
                         ARCFACE + ("--sub-centers", "3")),
    "3 sub-centers, dropped": Arm("3 sub-centers", "train_softmax.py", FINE,
                                  data="without_sub_center_list", start="dominant_centers"),
    "tail, weight 0": _tail("0"),
    "tail, random, weight 1": _tail("1", "--mining", "0"),
    "tail, weight 1": _tail("1"),
    "tail, weights 1, 5": _tail("1,5"),
    "tail, weights 1, 5, 10": _tail("1,5,10"),
    "tail as classes": _nra("0.5", True, data="with_tail_classes"),
    # From the model half-way, which has not learnt as many wrong labels yet.
    "continued, early": Arm("ArcFace", "train_softmax.py", FINE, start="early"),
    **{f"NRA {beta}, early": _nra(beta, True, start="early")
       for beta in ("1", "0.9", "0.5", "0.3")},
    "list dropped, early": Arm("ArcFace", "train_softmax.py", FINE, data="without_early_list",
                               start="early"),
    "NRA 0.5, list dropped, early": _nra("0.5", True, noise_list="early_list", start="early"),
    "tail, weight 0, early": _tail("0", early=True),
    "tail, random, weight 1, early": _tail("1", "--mining", "0", early=True),
    "tail, weight 1, early": _tail("1", early=True),
    "tail, weights 1, 5, 10, early": _tail("1,5,10", early=True),
}

_HEAD = ("margin 0", "ArcFace", "continued", "NRA 0.5", "NRA 0.3", "NRA 0.9", "list dropped",
         "NRA 0.5, list dropped")
_EARLY = ("continued, early", "NRA 0.5, early", "NRA 0.3, early", "NRA 0.9, early", "NRA 1, early",
          "list dropped, early", "NRA 0.5, list dropped, early")
_REFERENCE = tuple(f"NRA {beta}, reference's scale" for beta in ("0.5", "0.3", "0.9"))
_TAIL = ("tail, weight 0", "tail, weight 1", "tail, random, weight 1", "tail, weights 1, 5, 10",
         "tail, weights 1, 5", "tail as classes")
_EARLY_TAIL = ("tail, weight 0, early", "tail, weight 1, early", "tail, random, weight 1, early",
               "tail, weights 1, 5, 10, early")
_REST = ("NRA 1", "list relabelled", "margin 0, 3 sub-centers", "3 sub-centers",
         "3 sub-centers, dropped", "reference's list dropped",
         "NRA 0.5, reference's list dropped", "NRA 0.8", "NRA 0.7",
         "NRA 0.8, reference's scale", "NRA 0.7, reference's scale")
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

    yield from block("uniform", (0.4,), _EARLY + _EARLY_TAIL)
    yield from block("structured", (0.4,), _EARLY)
    yield from block("uniform", (0.0,), ("margin 0", "ArcFace"))
    yield from block("uniform", (0.4,), _TAIL)
    yield from block("uniform", (0.2, 0.6), _EARLY)
    yield from block("uniform", (0.0,), _EARLY + _EARLY_TAIL)
    yield from block("uniform", (0.4,), _HEAD + _REFERENCE)
    yield from block("structured", (0.4,), _EARLY_TAIL + _HEAD)
    yield from block("structured", (0.2, 0.6), _EARLY)
    yield from block("uniform", (0.2, 0.6), _EARLY_TAIL + _HEAD)
    yield from block("structured", (0.2, 0.6), _EARLY_TAIL + _HEAD)
    yield from block("uniform", (0.4,), _REST)
    yield from block("uniform", (0.2, 0.6, 0.0), _HEAD + _REFERENCE + _TAIL)
    yield from block("structured", (0.4, 0.2, 0.6), _REFERENCE + _TAIL)
    yield from block("uniform", (0.2, 0.6, 0.0), _REST)
    yield from block("structured", (0.4, 0.2, 0.6), _REST)


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
