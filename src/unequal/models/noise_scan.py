"""How noisy a model finds the labels of a set: scores of every image, and the noise list."""
import hashlib
import json
import logging
import os
from contextlib import closing
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from unequal.data import copying, noise_lists, pictures, texture
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError, InputError
from unequal.eval import noise_scores
from unequal.eval.features import open_features
from unequal.models import checkpoints
from unequal.models.embedder import Embedded, Embedder, Params
from unequal.symbols import margins
from unequal.system import runtime
from unequal.system.files import Lock, Taken, replacing
from unequal.system.progress import Bar, track

logger = logging.getLogger(__name__)

SMALL = 1000  # pictures; see `find`
MOST_ROWS = 256  # images the classifier takes at once; more made it no faster
_ARRAYS = 5  # arrays (rows, classes): logits, with margin, probabilities, and two to reduce these

Scores = Dict[str, np.ndarray]
Truth = Mapping[int, Tuple[int, str]]  # key -> true identity, kind; noise_lists.read_truth


def rows_at_once(classes: int, device: mx.Context) -> int:
    """How many images to score at once: as many as an eighth of the device's memory holds.

    At most :data:`MOST_ROWS`, which take 0.5 GB at 96,499 classes; at a million classes and 24 GB
    of memory it is 160.
    """
    memory = (runtime.memory() if device.device_type == "cpu"
              else mx.context.gpu_memory_info(device.device_id)[1])
    return int(min(MOST_ROWS, max(1, memory // 8 // (4 * _ARRAYS * classes))))


def _reduced(probabilities: Any, label: Any, classes: int, with_others: bool) -> Dict[str, Any]:
    """The numbers kept of the probabilities (N, C): ``{name: symbol (N,)}``."""
    largest = mx.sym.max(probabilities, axis=1)
    # The first of the largest entries, as argmax, which takes one GPU thread a row.
    backwards = mx.sym.arange(start=classes - 1, stop=-1, step=-1).reshape((1, -1))
    first = mx.sym.max(mx.sym.broadcast_mul(
        mx.sym.broadcast_equal(probabilities, mx.sym.expand_dims(largest, axis=1)), backwards),
        axis=1)
    kept = {"max_probability": largest, "prediction": (classes - 1) - first,
            "label_probability": mx.sym.pick(probabilities, label, axis=1)}
    if with_others:
        kept["largest_other"] = mx.sym.max(margins.replace_target(
            probabilities, label, mx.sym.ones_like(label) * -1, classes), axis=1)
    return kept


class Classifier:
    """Scores embeddings by a checkpoint's classifier: on the device, to three numbers an image.

    It is bound once, and the weight's rows are normalised once. The device holds the weight, 4 * D
    bytes a class (2 GB at a million classes and 512; twice while it is normalised), and the arrays
    of :func:`rows_at_once` images.

    Parameters
    ----------
    arg_params : dict of str to mxnet.ndarray.NDArray
        With ``fc7_weight`` (and ``fc7_bias`` for loss type 0).
    settings : unequal.symbols.margins.Margin
        The margin is applied to the given label's logit, as in training.
    device : mxnet.context.Context
    method : str
        A key of :data:`unequal.eval.noise_scores.METHODS`: the ``score``.
    """

    def __init__(self, arg_params: Params, settings: margins.Margin, device: mx.Context,
                 method: str = "max-probability") -> None:
        if "fc7_weight" not in arg_params:
            raise ArgumentError("checkpoint: the checkpoint has no classifier (fc7_weight); "
                                "give one of a training script.", "checkpoint")
        weight = arg_params["fc7_weight"]
        classes = self.num_classes = weight.shape[0] // settings.sub_centers
        self.rows = rows_at_once(classes, device)
        self._method = method
        label = mx.sym.Variable("label")
        # With a name counter of its own: the layers of a network built later, and so its
        # symbol.json, must not be named differently because a list was made before.
        with mx.name.NameManager():
            logits = margins.margin_logits(mx.sym.Variable("embedding"), label, classes,
                                           weight.shape[1], settings,
                                           unit=lambda _: mx.sym.Variable("unit_rows"))
            kept = _reduced(mx.sym.softmax(logits, axis=1), label, classes,
                            method == "label-margin")
            symbol = mx.sym.Group(list(kept.values()))
        self._names = list(kept)
        wanted = symbol.list_arguments()
        if "fc7_bias" in wanted and "fc7_bias" not in arg_params:
            raise ArgumentError(
                f"loss_type {settings.loss_type}: the checkpoint's classifier has no bias "
                f"(fc7_bias), so it was trained with another loss type; give that one.",
                "loss_type")
        arguments = {name: arg_params[name].as_in_context(device)
                     for name in wanted if name.startswith("fc7")}
        if "unit_rows" in wanted:
            arguments["unit_rows"] = mx.nd.L2Normalization(weight.as_in_context(device),
                                                           mode="instance")
        if margins.SPHERE_BETA in wanted:
            arguments[margins.SPHERE_BETA] = mx.nd.zeros((1,), ctx=device)
        arguments["embedding"] = mx.nd.zeros((self.rows, weight.shape[1]), ctx=device)
        arguments["label"] = mx.nd.zeros((self.rows,), ctx=device)
        self._executor = symbol.bind(device, arguments, grad_req="null")

    def __call__(self, embeddings: np.ndarray, labels: np.ndarray) -> Scores:
        """Scores of any number of embeddings (n, D), not normalised, with labels (n,): arrays (n,).

        ``max_probability``, ``label_probability`` and the method's ``score``, float32, and
        ``prediction``, int64, the first class of the largest probability.
        """
        found: Dict[str, List[np.ndarray]] = {name: [] for name in self._names}
        given = self._executor.arg_dict
        for start in range(0, len(labels), self.rows):
            some = slice(start, start + self.rows)
            count = len(labels[some])  # rows beyond are left from before; their results are cut off
            given["embedding"][:count] = embeddings[some]
            given["label"][:count] = labels[some]
            for name, value in zip(self._names, self._executor.forward(is_train=False)):
                found[name].append(value.asnumpy()[:count])
        whole = {name: np.concatenate(parts or [np.zeros(0, np.float32)])
                 for name, parts in found.items()}
        whole["prediction"] = whole["prediction"].astype(np.int64)
        if self._method == "label-margin":
            whole["score"] = whole["label_probability"] - whole.pop("largest_other")
        else:
            whole["score"] = whole[self._method.replace("-", "_")]
        return whole


def _blocks(stream: Iterable[Embedded], rows: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Labels and embeddings of :meth:`Embedder.stream`, ``rows`` and more at a time."""
    labels: List[np.ndarray] = []
    embeddings: List[np.ndarray] = []
    for _, some, plain, _ in stream:
        labels.append(some)
        embeddings.append(plain)
        if sum(map(len, labels)) >= rows:
            yield np.concatenate(labels).astype(np.int64), np.concatenate(embeddings)
            labels, embeddings = [], []
    if labels:
        yield np.concatenate(labels).astype(np.int64), np.concatenate(embeddings)


def _fingerprint(records: RecordSet, checkpoint: str, settings: margins.Margin, method: str
                 ) -> str:
    """The set, model and rule of a file of scores: with another one it is not continued."""
    path = checkpoints.params_path(*checkpoints.parse(checkpoint))
    facts = [os.path.abspath(records.path), os.path.getsize(records.path), len(records),
             os.path.abspath(path), os.path.getmtime(path), list(settings), method]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def score_records(records: RecordSet, checkpoint: str, settings: margins.Margin, part: str, *,
                  method: str = "max-probability",
                  devices: Optional[Sequence[mx.Context]] = None, batch_size: int = 64) -> Scores:
    """Score all images of a set, un-augmented, in the order of their keys.

    Rows are written to ``part`` as they come; a run that was killed continues after the last
    complete row. Memory: see :class:`Classifier`; the probabilities stay on the device.

    Parameters
    ----------
    records : unequal.data.records.RecordSet
    checkpoint : str
        ``'prefix,epoch'`` with embedding and classifier.
    settings : unequal.symbols.margins.Margin
    part : str
        Path of the file of scores: a line of what they belong to, a line of
        :data:`unequal.data.noise_lists.COLUMNS`, rows.
    method : str
        A key of :data:`unequal.eval.noise_scores.METHODS`. ``max-probability`` sees the margin, as
        in the reference; the others do not.
    devices : list of mxnet.context.Context, optional
    batch_size : int
        Pictures a forward pass of the network. The classifier takes as many embeddings at once as
        memory lets it, on the first device.

    Returns
    -------
    dict of str to numpy.ndarray
        A column each, (images,); ``key``, ``label`` and ``prediction`` are int64.
    """
    devices = devices or [mx.cpu()]
    if method != "max-probability":
        settings = settings._replace(margin_m=0.0, margin_a=1.0, margin_b=0.0, margin=1)
    symbol, arg_params, aux_params = checkpoints.load(*checkpoints.parse(checkpoint))
    settings = settings._replace(
        sub_centers=checkpoints.sub_centers(checkpoints.parse(checkpoint)[0]))
    classifier = Classifier(arg_params, settings, devices[0], method)
    if classifier.num_classes != records.num_classes:
        raise ArgumentError(
            f"checkpoint {checkpoint}: its classifier has {classifier.num_classes} "
            f"classes, but {records.path} has {records.num_classes}; give a model trained on this "
            "set.", "checkpoint")
    head = noise_lists.scores_head(_fingerprint(records, checkpoint, settings, method))
    done = max(noise_lists.resume_scores(part, head), 0)
    os.makedirs(os.path.dirname(part) or ".", exist_ok=True)
    with open(part, "ab" if done else "wb") as file, Bar(len(records), "scoring", "images") as bar:
        if done:
            logger.info("%s: continued after %d images", part, done)
            bar.update(done)
        else:
            file.write(head)
        embedder = Embedder(symbol, arg_params, aux_params, records.image_size, devices,
                            batch_size)
        keys = records.image_keys[done:]
        stream = embedder.stream(records, keys) if len(keys) else ()
        for labels, embeddings in _blocks(stream, classifier.rows):
            columns = dict(classifier(embeddings, labels), label=labels,
                           key=records.image_keys[done:done + len(labels)])
            done += len(labels)
            file.write(noise_lists.score_rows([columns[name] for name in noise_lists.COLUMNS]))
            file.flush()
            bar.update(len(labels))
    return noise_lists.read_scores(part)


def make_list(records: RecordSet, checkpoint: str, settings: margins.Margin, threshold: float,
              path: str, *, method: str = "max-probability",
              devices: Optional[Sequence[mx.Context]] = None, batch_size: int = 64,
              scores: Optional[str] = None) -> Tuple[Scores, np.ndarray]:
    """Score a set and write the list of images whose score is below ``threshold``.

    Returns
    -------
    columns, listed
        As :func:`score_records`, and bool (images,).

    Raises
    ------
    ArgumentError
        When another process is making the same list.
    """
    try:
        lock = Lock(path + ".lock")
    except Taken as other:
        raise ArgumentError(f"path {path}: another process is making this list ({other}); wait for "
                            "its end, or name another.", "path") from None
    with closing(lock):
        part = path + ".part"
        columns = score_records(records, checkpoint, settings, part, method=method,
                                devices=devices, batch_size=batch_size)
        listed = columns["score"] < threshold
        if method == "max-probability" and threshold <= 1 / records.num_classes:
            # The largest of C probabilities is never below 1 / C.
            logger.warning("threshold %g lists nothing: with %d classes the largest probability is "
                           "at least %.4g; give a larger one, or neither method nor threshold.",
                           threshold, records.num_classes, 1 / records.num_classes)
        noise_lists.write_list(path, columns, listed)
        if scores:
            os.replace(part, scores)
        else:
            os.remove(part)
    return columns, listed


def quality(columns: Scores, listed: np.ndarray, truth: Truth
            ) -> Iterator[Tuple[str, Dict[str, float]]]:
    """Yield ``(kind, noise.detection_quality)`` of each kind against clean images, and of all."""
    kinds = np.array([truth.get(int(key), (-1, ""))[1] for key in columns["key"]])
    for kind in noise_lists.KINDS + ("all",):
        noisy = kinds != "clean" if kind == "all" else kinds == kind
        among = noisy | (kinds == "clean")
        yield kind, noise_scores.detection_quality(columns["score"][among], noisy[among],
                                                    listed[among])


def _paths(records: RecordSet) -> List[str]:
    """Each image's path in ``train.lst``; empty strings without one."""
    lines = (line for line, _ in zip(copying.list_lines(records), records.image_keys))
    return [line.rstrip("\n").split("\t")[1] if line and line.count("\t") > 1 else ""
            for line in lines]


def features_of(records: RecordSet, path: str) -> np.ndarray:
    """Features of a set's images from a file, made by any model.

    Parameters
    ----------
    records : unequal.data.records.RecordSet
    path : str
        In a form of `unequal embed`. A row's name ends in the image's key (``17/2045``), or is
        the image's path in ``train.lst``; with other names, a row for each image in the order of
        the keys.

    Returns
    -------
    numpy.ndarray
        float32 (images, D), rows of length 1: 4 * D bytes an image.

    Raises
    ------
    InputError
        When the file is none, or has not a row for each image.
    """
    features = open_features(path)
    names = features.kept_names()
    by_key = {name.rsplit("/", 1)[-1].lstrip("0") or "0": row for row, name in enumerate(names)}
    by_path = {name: row for row, name in enumerate(names)}
    for known, wanted in ((by_key, list(map(str, records.image_keys))), (by_path, _paths(records))):
        if all(name in known for name in wanted):
            return features.array()[[known[name] for name in wanted]]
    if len(names) != len(records):
        raise InputError(f"{path}: has {len(names)} features, but {records.path} has "
                         f"{len(records)} images; `unequal embed {records.directory}` writes one "
                         "for each.")
    return features.array()


def _seen(records: RecordSet, arg_params: Dict[str, Any], sub_centers: int) -> bool:
    """Whether a checkpoint may be trained on this set: its classifier has as many classes."""
    weight = arg_params.get("fc7_weight")
    return weight is not None and weight.shape[0] == records.num_classes * sub_centers


def labels_and_digests(records: RecordSet,
                       keys: np.ndarray) -> Tuple[np.ndarray, List[bytes]]:
    """Labels, int64 (n,), of the images with these keys (integers), and digests that show which
    images are identical.

    Raises
    ------
    InputError
        When all are of one class.
    """
    labels, digests = np.empty(len(keys), np.int64), []
    for row, key in enumerate(keys):
        labels[row], data = records.image(int(key))
        digests.append(pictures.digest(data))
    if len(np.unique(labels)) < 2:
        raise InputError(f"{records.path}: has pictures of one class only; wrong labels show "
                         "among several.")
    return labels, digests


def texture_features(records: RecordSet) -> np.ndarray:
    """float32 (images, 128 or fewer): see :func:`unequal.data.texture.features`."""
    images = (pictures.decode(data, f"{records.path}: image {key}")
              for key, (_, data) in ((key, records.image(key)) for key in records.image_keys))
    return texture.features(track(images, "images", len(records)))


def _embed(records: RecordSet, checkpoint: str, loaded: Tuple[mx.sym.Symbol, Params, Params],
           devices: Optional[Sequence[mx.Context]], batch_size: int) -> np.ndarray:
    """A checkpoint's features, float32 (images, D)."""
    logger.info("features by %s", checkpoints.params_path(*checkpoints.parse(checkpoint)))
    embedder = Embedder(*loaded, records.image_size, devices, batch_size)
    rows = np.empty((len(records), embedder.embedding_size), np.float32)
    with Bar(len(records), "embedding", "images") as bar:
        done = 0
        for _, some in embedder.features(records):
            rows[done:done + len(some)] = some
            done += len(some)
            bar.update(len(some))
    return rows


def _by_model(records: RecordSet, checkpoint: str, labels: np.ndarray, always: bool,
              devices: Optional[Sequence[mx.Context]], batch_size: int
              ) -> Tuple[np.ndarray, bool]:
    """The features to judge by, and whether their maker has not seen the labels.

    Those of the checkpoint; for a small set those of texture where they predict labels better,
    unless ``always`` is set.
    """
    prefix, epoch = checkpoints.parse(checkpoint)
    path = checkpoints.params_path(prefix, epoch)
    loaded = checkpoints.load(prefix, epoch)
    seen = _seen(records, loaded[1], checkpoints.sub_centers(prefix))
    choose = len(records) <= SMALL and not always
    if choose and seen and checkpoints.alone(prefix):
        logger.info("%s was trained on these %d pictures only and may have learnt their wrong "
                    "labels, so their texture is used instead (set by_model to use the model)",
                    path, len(records))
        return texture_features(records), True
    rows = _embed(records, checkpoint, loaded, devices, batch_size)
    if choose and not seen:
        texture_rows = texture_features(records)
        of_model, of_texture = (noise_scores.agreement(some, labels, records.num_classes)
                                for some in (rows, texture_rows))
        better = of_texture > of_model
        logger.info("%s predicts %.0f%% of the labels out of sample, the pictures' texture %.0f%%: "
                    "%s", path, 100 * of_model, 100 * of_texture,
                    "texture is used (set by_model to use the model)" if better else
                    "the model is used")
        if better:
            rows = texture_rows
    return rows, not seen


def find(records: RecordSet, checkpoint: Optional[str] = None, features: Optional[str] = None, *,
         by_model: bool = False, devices: Optional[Sequence[mx.Context]] = None,
         batch_size: int = 64) -> Tuple[np.ndarray, np.ndarray, noise_scores.Findings]:
    """Find wrong labels, strangers, split people and duplicates of a set.

    Up to :data:`SMALL` pictures are judged by their texture (:mod:`unequal.data.texture`) in three
    cases: without a model; when the model's log says that it has learnt from these pictures alone,
    since it has then learnt the wrong labels too and is weaker (studies/noise_trial.py); and when a
    model of other people predicts fewer of the labels out of sample than texture does.

    Parameters
    ----------
    records : unequal.data.records.RecordSet
    checkpoint : str, optional
        ``'prefix,epoch'``; only its embedding is used, so it may come from other people.
    features : str, optional
        Used instead of a checkpoint: see :func:`features_of`. Whoever made them is assumed not to
        have seen the labels.
    by_model : bool
        The checkpoint judges in any case.
    devices, batch_size
        As :func:`score_records`.

    Returns
    -------
    labels, features : numpy.ndarray
        int64 (images,); float32 (images, D): 4 * D bytes an image, 4 GB for 2 million and 512.
    findings : unequal.eval.noise_scores.Findings
    """
    if checkpoint is None and features is None and len(records) > SMALL:
        raise ArgumentError(
            f"checkpoint is missing: {records.path} has {len(records)} pictures, and above {SMALL} "
            "a model judges better than texture does (`unequal train auto` makes one).",
            "checkpoint")
    labels, digests = labels_and_digests(records, records.image_keys)
    if features is not None:
        rows, unseen = features_of(records, features), True
    elif checkpoint is not None:
        rows, unseen = _by_model(records, checkpoint, labels, by_model, devices, batch_size)
    else:
        rows, unseen = texture_features(records), True
    return labels, rows, noise_scores.find(rows, labels, classes=records.num_classes,
                                           digests=digests, unseen=unseen)


def write_findings(path: str, records: RecordSet, labels: np.ndarray,
                   found: noise_scores.Findings) -> None:
    """Write the noise list ``path`` and, with kinds and names, ``path.csv``: the same images.

    In the list, ``maxP`` and ``P[label]`` are out-of-sample probabilities.
    """
    listed = found.kinds != ""
    noise_lists.write_list(path, {
        "label": labels, "key": records.image_keys,
        "max_probability": found.probabilities[:, 0], "label_probability": found.own}, listed)
    paths = _paths(records)
    rows = np.flatnonzero(listed)
    noise_lists.write_table(path + ".csv", [
        (int(records.image_keys[row]), paths[row], int(labels[row]), found.kinds[row],
         int(found.suggested[row]) if found.suggested[row] >= 0 else "",
         repr(float(found.confidence[row])))
        for row in rows[np.argsort(-found.confidence[rows], kind="stable")]])


def write_probabilities(path: str, keys: np.ndarray, labels: np.ndarray, features: np.ndarray,
                        found: noise_scores.Findings) -> None:
    """Write labels, features and out-of-sample probabilities for other tools (``.npz``).

    Arrays: ``keys``, ``labels`` int64 (n,); ``features`` float32 (n, D); ``probabilities`` float64
    (n, classes), or, above 20 million numbers, the largest ten in ``probabilities`` (n, 10) and
    their classes in ``classes`` int64 (n, 10).
    """
    arrays: Dict[str, Any] = {"keys": keys, "labels": labels, "features": features}
    if found.every is not None:
        arrays["probabilities"] = found.every
    else:
        arrays.update(probabilities=found.probabilities, classes=found.nearest)
    with replacing(path, binary=True) as file:
        np.savez(file, **arrays)


def quality_of_kinds(keys: np.ndarray, found: noise_scores.Findings, truth: Truth
                     ) -> Iterator[Tuple[str, Dict[str, float]]]:
    """Yield ``(kind, noise_scores.detection_quality)`` as :func:`quality`, each by its own score.

    An image counts as found whatever kind it is listed as.
    """
    kinds = np.array([truth.get(int(key), (-1, ""))[1] for key in keys])
    for kind in noise_lists.KINDS + ("all",):
        noisy = kinds != "clean" if kind == "all" else kinds == kind
        among = noisy | (kinds == "clean")
        score = found.scores["flip" if kind == "all" else kind]
        yield kind, noise_scores.detection_quality(score[among], noisy[among],
                                                    (found.kinds != "")[among])
