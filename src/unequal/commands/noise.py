"""``unequal noise``: score every image of a record set for label noise and list the worst."""
import csv
import hashlib
import json
import logging
import os
import re

import mxnet as mx
import numpy as np

from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.eval import noise_scores
from unequal.models import checkpoints
from unequal.models.embedder import Embedder
from unequal.symbols import margins
from unequal.system import runtime
from unequal.system.files import remove_leftovers, replacing
from unequal.system.progress import Bar
from unequal.training import flags

logger = logging.getLogger(__name__)

NAME = "0_noiselist.txt"  # the reference's, in --bin-dir
COLUMNS = ("label", "key", "max_probability", "label_probability", "score", "prediction")
KINDS = ("flip", "split", "outlier")


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
            raise InputError("--pretrained: the checkpoint has no classifier (fc7_weight); give "
                             "one of a training script.")
        classes, size = arg_params["fc7_weight"].shape
        label = mx.sym.Variable("label")
        # Numbered apart: the names in the network to be trained, and so its symbol.json, must not
        # depend on whether a list was made before.
        with mx.name.NameManager():
            logits = margins.margin_logits(mx.sym.Variable("embedding"), label, classes, size,
                                          settings)
            self._symbol = mx.sym.softmax(logits, axis=1)
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


def _resume(path, head):
    """Whole rows of an interrupted run that belongs to ``head``; cuts off what is not whole."""
    try:
        with open(path, "r+b") as file:
            content = file.read()
            if not content.startswith(head):
                return 0
            whole = content.rfind(b"\n") + 1
            file.truncate(whole)
            return content[:whole].count(b"\n") - 2
    except FileNotFoundError:
        return 0


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
        Path of the file of scores: a line of what they belong to, a line of :data:`COLUMNS`, rows.
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
    classifier = Classifier(arg_params, settings, devices[0])
    if arg_params["fc7_weight"].shape[0] != records.num_classes:
        raise InputError("--pretrained {}: its classifier has {} classes, but {} has {}; give a "
                         "model trained on this set.".format(
                             checkpoint, arg_params["fc7_weight"].shape[0], records.path,
                             records.num_classes))
    head = "# {}\n{}\n".format(_fingerprint(records, checkpoint, settings, method),
                               ",".join(COLUMNS)).encode()
    done = max(_resume(part, head), 0)
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
            rows = zip(labels, keys[start:start + len(labels)], probabilities.max(axis=1),
                       noise_scores.label_probability(labels, probabilities),
                       noise_scores.score(labels, probabilities, method=method),
                       probabilities.argmax(axis=1))
            file.write("".join("{},{},{!r},{!r},{!r},{}\n".format(
                label, key, float(most), float(own), float(score), prediction)
                for label, key, most, own, score, prediction in rows).encode())
            file.flush()
            bar.update(len(labels))
    return read_scores(part)


def read_scores(path):
    """The columns of a file of scores, as :func:`score_records` returns them.

    Raises
    ------
    InputError
        When it is none.
    """
    try:
        with open(path, encoding="ascii") as lines:
            if lines.readline()[:1] != "#" or lines.readline().strip() != ",".join(COLUMNS):
                raise ValueError
            table = np.loadtxt(lines, delimiter=",", ndmin=2)
            if table.shape[1] != len(COLUMNS):
                raise ValueError
    except ValueError:
        raise InputError("{}: not a whole file of scores; `unequal noise --scores` writes "
                         "one.".format(path)) from None
    columns = dict(zip(COLUMNS, table.T))
    return {name: column.astype(np.int64) if name in ("label", "key", "prediction") else column
            for name, column in columns.items()}


def write_list(path, columns, listed):
    """Write the noise list: lines ``label index maxP P[label]`` of the images in ``listed``."""
    remove_leftovers(os.path.dirname(path), re.escape(os.path.basename(path)))
    with replacing(path) as file:
        for row in np.flatnonzero(listed):
            file.write("{} {} {!r} {!r}\n".format(
                columns["label"][row], columns["key"][row],
                float(columns["max_probability"][row]), float(columns["label_probability"][row])))


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
    write_list(path, columns, listed)
    if scores:
        os.replace(part, scores)
    else:
        os.remove(part)
    return columns, listed


def read_truth(path):
    """``{key: (true identity, kind)}`` of a ``truth.csv`` (`unequal synth`)."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return {int(row["key"]): (int(row["true_identity"]), row["kind"])
                    for row in csv.DictReader(file)}
    except (KeyError, ValueError, TypeError, csv.Error):
        raise InputError("{}: expected the columns key, label, true_identity, kind, as `unequal "
                         "synth` writes them.".format(path)) from None


def quality(columns, listed, truth):
    """Yield ``(kind, noise.detection_quality)`` of each kind against clean images, and of all."""
    kinds = np.array([truth.get(int(key), (-1, ""))[1] for key in columns["key"]])
    for kind in KINDS + ("all",):
        noisy = kinds != "clean" if kind == "all" else kinds == kind
        among = noisy | (kinds == "clean")
        yield kind, noise_scores.detection_quality(columns["score"][among], noisy[among],
        listed[among])


def configure(parser):
    """Arguments of ``unequal noise``."""
    parser.add_argument("directory", metavar="DIR", help="record set")
    parser.add_argument("--pretrained", required=True, metavar="P,E", help="model trained on it")
    parser.add_argument("--threshold", type=float, required=True,
                        help="list images whose score is below (the authors' default: 0.007)")
    parser.add_argument("--method", choices=sorted(noise_scores.METHODS), default="max-probability",
                        help="default: %(default)s, the reference's")
    parser.add_argument("--out", required=True, metavar="F", help="the noise list to write")
    parser.add_argument("--scores", metavar="F", help="also keep every image's score")
    parser.add_argument("--truth", metavar="F", help="truth.csv: report how good the list is")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--devices", default=None, help="cpu, cpu:N or gpu:0,1")
    for flag, kind, default, text in flags.MARGIN:
        if flag[2:].replace("-", "_") in margins.Margin._fields:
            parser.add_argument(flag, type=kind, default=default, help=text)


def run(args):
    """Write the list; print how many, and with ``--truth`` how good."""
    settings = margins.Margin(**{name: getattr(args, name) for name in margins.Margin._fields})
    with RecordSet(args.directory) as records:
        columns, listed = make_list(
            records, args.pretrained, settings, args.threshold, args.out, method=args.method,
            devices=runtime.devices(args.devices), batch_size=args.batch_size, scores=args.scores)
    print("{}: {} of {} images listed".format(args.out, int(listed.sum()), len(listed)))
    if args.truth:
        print("{:10s}{:>8s}{:>11s}{:>9s}{:>19s}".format(
            "kind", "images", "precision", "recall", "average precision"))
        for kind, numbers in quality(columns, listed, read_truth(args.truth)):
            print("{:10s}{count:8d}{precision:11.3f}{recall:9.3f}{average_precision:19.3f}".format(
                kind, **numbers))
