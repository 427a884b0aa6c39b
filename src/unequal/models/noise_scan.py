"""How noisy a model finds the labels of a set: scores of every image, and the noise list."""
import hashlib
import json
import logging
import os

import mxnet as mx
import numpy as np

from unequal.data import noise_lists
from unequal.errors import ArgumentError
from unequal.eval import noise_scores
from unequal.models import checkpoints
from unequal.models.embedder import Embedder
from unequal.symbols import margins
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
