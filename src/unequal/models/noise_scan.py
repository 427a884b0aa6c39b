"""How noisy a model finds the labels of a set: scores of every image, and the noise list."""
import hashlib
import json
import logging
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from unequal.data import copying, noise_lists
from unequal.data.records import RecordSet
from unequal.errors import ArgumentError, InputError
from unequal.eval import noise_scores
from unequal.eval.features import open_features
from unequal.models import checkpoints
from unequal.models.embedder import Embedder
from unequal.symbols import margins
from unequal.system.files import replacing
from unequal.system.progress import Bar

logger = logging.getLogger(__name__)


class Classifier:
    """Softmax probabilities of embeddings under a checkpoint's classifier.

    Parameters
    ----------
    arg_params : dict of str to mxnet.ndarray.NDArray
        With ``fc7_weight`` (and ``fc7_bias`` for loss type 0).
    settings : unequal.symbols.margins.Margin
        The margin is applied to the given label's logit, as in training.
    device : mxnet.context.Context
    """

    def __init__(self, arg_params, settings, device):
        if "fc7_weight" not in arg_params:
            raise ArgumentError("checkpoint: the checkpoint has no classifier (fc7_weight); "
                                "give one of a training script.", "checkpoint")
        rows, size = arg_params["fc7_weight"].shape
        classes = self.num_classes = rows // settings.sub_centers
        label = mx.sym.Variable("label")
        # Numbered apart: the names in the network to be trained, and so its symbol.json, must not
        # depend on whether a list was made before.
        with mx.name.NameManager():
            logits = margins.margin_logits(mx.sym.Variable("embedding"), label, classes, size,
                                          settings)
            self._symbol = mx.sym.softmax(logits, axis=1)
        if "fc7_bias" in self._symbol.list_arguments() and "fc7_bias" not in arg_params:
            raise ArgumentError(
                "loss_type {}: the checkpoint's classifier has no bias (fc7_bias), so it was "
                "trained with another loss type; give that one.".format(settings.loss_type),
                "loss_type")
        self._arguments = {name: arg_params[name].as_in_context(device)
                           for name in self._symbol.list_arguments() if name.startswith("fc7")}
        if margins.SPHERE_BETA in self._symbol.list_arguments():
            self._arguments[margins.SPHERE_BETA] = mx.nd.zeros((1,), ctx=device)
        self._device = device

    def __call__(self, embeddings, labels):
        """float32 (n, classes) for embeddings (n, D), not normalised, and labels (n,)."""
        arguments = dict(self._arguments, embedding=mx.nd.array(embeddings, ctx=self._device),
                         label=mx.nd.array(labels, ctx=self._device))
        executor = self._symbol.bind(self._device, arguments, grad_req="null")
        return executor.forward(is_train=False)[0].asnumpy()


def _fingerprint(records, checkpoint, settings, method):
    """What a list of scores belongs to: another set, model or rule must not continue it."""
    path = checkpoints.params_path(*checkpoints.parse(checkpoint))
    facts = [os.path.abspath(records.path), os.path.getsize(records.path), len(records),
             os.path.abspath(path), os.path.getmtime(path), list(settings), method]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def score_records(records, checkpoint, settings, part, *, method="max-probability", devices=None,
                  batch_size=64):
    """Score all images of a set, un-augmented, in the order of their keys.

    Rows are written to ``part`` as they come; a run that was killed goes on after its last whole
    row. Memory is a batch of probabilities: 4 * batch_size * classes bytes.

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
    classifier = Classifier(arg_params, settings, devices[0])
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
        for start, labels, embeddings, _ in (embedder.stream(records, keys) if len(keys) else ()):
            labels = labels.astype(np.int64)
            probabilities = classifier(embeddings, labels)
            file.write(noise_lists.score_rows((
                labels, keys[start:start + len(labels)], probabilities.max(axis=1),
                noise_scores.label_probability(labels, probabilities),
                noise_scores.score(labels, probabilities, method=method),
                probabilities.argmax(axis=1))))
            file.flush()
            bar.update(len(labels))
    return noise_lists.read_scores(part)


def make_list(records, checkpoint, settings, threshold, path, *, method="max-probability",
              devices=None, batch_size=64, scores=None):
    """Score a set and write the list of images whose score is below ``threshold``.

    Returns
    -------
    columns, listed
        As :func:`score_records`, and bool (images,).
    """
    part = path + ".part"
    columns = score_records(records, checkpoint, settings, part, method=method, devices=devices,
                            batch_size=batch_size)
    listed = columns["score"] < threshold
    if method == "max-probability" and threshold <= 1 / records.num_classes:
        # The largest of C probabilities is never below 1 / C.
        logger.warning("threshold %g lists nothing: with %d classes the largest probability is at "
                       "least %.4g; give a larger one, or neither method nor threshold.",
                       threshold, records.num_classes, 1 / records.num_classes)
    noise_lists.write_list(path, columns, listed)
    if scores:
        os.replace(part, scores)
    else:
        os.remove(part)
    return columns, listed


def quality(columns, listed, truth):
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


def find(records: RecordSet, checkpoint: Optional[str] = None, features: Optional[str] = None, *,
         devices: Optional[Sequence[mx.Context]] = None, batch_size: int = 64
         ) -> Tuple[np.ndarray, np.ndarray, noise_scores.Findings]:
    """Find wrong labels, strangers, split people and duplicates of a set.

    Parameters
    ----------
    records : unequal.data.records.RecordSet
    checkpoint : str, optional
        ``'prefix,epoch'``; only its embedding is used, so it may come from other people.
    features : str, optional
        Instead of it: see :func:`features_of`.
    devices, batch_size
        As :func:`score_records`.

    Returns
    -------
    labels, features : numpy.ndarray
        int64 (images,); float32 (images, D): 4 * D bytes an image, 4 GB for 2 million and 512.
    findings : unequal.eval.noise_scores.Findings
    """
    if features is not None:
        rows = features_of(records, features)
    else:
        prefix, epoch = checkpoints.parse(checkpoint or "")
        logger.info("features by %s", checkpoints.params_path(prefix, epoch))
        symbol, arg_params, aux_params = checkpoints.load(prefix, epoch)
        embedder = Embedder(symbol, arg_params, aux_params, records.image_size, devices,
                            batch_size)
        rows = np.empty((len(records), embedder.embedding_size), np.float32)
        with Bar(len(records), "embedding", "images") as bar:
            done = 0
            for _, some in embedder.features(records):
                rows[done:done + len(some)] = some
                done += len(some)
                bar.update(len(some))
    labels = np.empty(len(records), np.int64)
    digests = []
    for row, key in enumerate(records.image_keys):
        labels[row], data = records.image(key)
        digests.append(hashlib.blake2b(data, digest_size=16).digest())
    if len(np.unique(labels)) < 2:
        raise InputError(f"{records.path}: has pictures of one class only; wrong labels show "
                         "among several.")
    return labels, rows, noise_scores.find(rows, labels, classes=records.num_classes,
                                           digests=digests)


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


def quality_of_kinds(keys: np.ndarray, found: noise_scores.Findings, truth: dict) -> Any:
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
