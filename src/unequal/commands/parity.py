"""``unequal parity DIR``: our symbols, verification and mining beside a recorded reference.

DIR holds ``losses_and_networks.json`` (for each case: hyper-parameters, or names and shapes of a
network, ``net_r18`` or ``net_r18_se``, whose output need not be recorded) and
``losses_and_networks.npz`` (arrays ``CASE/NAME``: inputs, outputs ``out0``..., gradients
``grad_NAME`` before ``rescale_grad``). ``tests/golden/reference`` is one, recorded from the
authors' own symbols.
"""
import argparse
import json
import logging
import os
import zipfile
import zlib
from typing import Any, Callable, Dict, Iterator, Mapping, Tuple

import mxnet as mx
import numpy as np

from unequal.commands.arguments import real
from unequal.errors import InputError
from unequal.eval import verification
from unequal.models.device_check import relative_error, run_symbol
from unequal.symbols import heads, margins, networks
from unequal.system.files import MAX_TABLE, open_input
from unequal.system.text import plain, say
from unequal.training.mining import confusable_identities

logger = logging.getLogger(__name__)

NAME = "losses_and_networks"

Case = Dict[str, Any]  # the settings of a recorded case
Arrays = Dict[str, np.ndarray]


def recorded_margin(case: Case) -> margins.Margin:
    """The Margin of a recorded case."""
    return margins.Margin(**{name: case[name] for name in margins.Margin._fields if name in case})


def _head_error(symbol: mx.sym.Symbol, recorded: Arrays, outputs: Dict[str, str]) -> float:
    """Largest error over the outputs in ``outputs`` ({recorded name: ours}) and all gradients."""
    logits = mx.sym.BlockGrad(symbol.get_internals()["logits_output"], name="margin_logits")
    ours, gradients = run_symbol(mx.sym.Group([symbol, logits]), recorded, inputs=["label"])
    errors = [relative_error(ours[name].reshape(recorded[out].shape), recorded[out])
              for out, name in outputs.items()]
    errors += [relative_error(gradients[name[len("grad_"):]], value)
               for name, value in recorded.items() if name.startswith("grad_")]
    return max(errors, key=lambda error: (np.isnan(error), error))


def _softmax(case: Case, recorded: Arrays) -> float:
    symbol = heads.softmax_head(mx.sym.Variable("emb"), mx.sym.Variable("label"),
                                 case["num_classes"], case["emb_size"], recorded_margin(case))
    return _head_error(symbol, recorded, {"out0": "embedding", "out1": "softmax"})


def _nra(case: Case, recorded: Arrays) -> float:
    symbol = heads.nra_head(mx.sym.Variable("emb"), mx.sym.Variable("label"), case["num_classes"],
                          case["emb_size"], recorded_margin(case), beta=case["noise_beta"],
                          normalizer=2 * case["batch"])
    return _head_error(symbol, recorded,
                       {"out0": "embedding", "out1": "margin_logits", "out2": "loss"})


def _unequal(case: Case, recorded: Arrays) -> float:
    per_identity = case["images_per_identity"]
    symbol = heads.unequal_head(
        mx.sym.Variable("emb"), mx.sym.Variable("label"), case["num_classes"], case["emb_size"],
        recorded_margin(case), head_size=case["batch"],
        tail_identities=case["batchsize_id"] // per_identity, images_per_identity=per_identity,
        interweight=case["interweight"], beta=case["noise_beta"] if case["noise"] else 1.0,
        normalizer=case["batch"] // 2)
    return _head_error(symbol, recorded, {
        "out0": "embedding", "out1": "head_label", "out2": "margin_logits", "out3": "tail_label",
        "out5": "loss", "out6": "tail_loss", "out8": "tail_cosines"})


def _mining(case: Case, recorded: Arrays) -> float:
    per_identity = case["images_per_identity"]
    embeddings = recorded["embeddings"]
    identities = np.arange(len(embeddings)) // per_identity
    chosen = confusable_identities(embeddings, identities, case["batchsize_id"] // per_identity)
    # Of the two identities of a pair the reference's unstable sort puts either one first.
    return relative_error(np.sort(chosen), np.sort(recorded["selected"]))


def parameters(names_and_shapes: Mapping[str, Tuple[int, ...]]) -> Arrays:
    """Weights drawn by name, so that any implementation can have the same ones."""
    Scale = Callable[[np.ndarray], np.ndarray]
    scales: Tuple[Tuple[Callable[[str], bool], Scale], ...] = (
        # suffix -> value of a standard normal v
        (lambda name: "relu" in name and name.endswith("_gamma"), lambda v: 0.25 + 0.05 * v),
        (lambda name: name.endswith("_gamma"), lambda v: 1 + 0.1 * v),
        (lambda name: name.endswith(("_beta", "_bias", "moving_mean")), lambda v: 0.1 * v),
        (lambda name: name.endswith("moving_var"), lambda v: 1 + 0.1 * np.abs(v)),
        (lambda name: True, lambda v: v * np.sqrt(2 / np.prod(v.shape[1:]))),
    )
    values = {}
    for name, shape in names_and_shapes.items():
        random = np.random.RandomState(zlib.crc32(name.encode()) % 2 ** 31)
        drawn = random.randn(*shape).astype("float32")
        value = next(scale for applies, scale in scales if applies(name))(drawn)
        values[name] = value.astype("float32")
    return values


def network_output(network: str, data: np.ndarray, **options: Any) -> np.ndarray:
    """``fc1`` of a network with the weights of :func:`parameters`, float32 (N, emb_size).

    ``options`` are those of :func:`unequal.symbols.networks.get_symbol`.
    """
    symbol = networks.get_symbol(network, **options)
    shapes, _, aux_shapes = symbol.infer_shape(data=data.shape)
    arguments = {name: mx.nd.array(value) for name, value in parameters(
        dict(zip(symbol.list_arguments(), shapes))).items()}
    arguments["data"] = mx.nd.array(data.astype("float32"))
    states = {name: mx.nd.array(value) for name, value in parameters(
        dict(zip(symbol.list_auxiliary_states(), aux_shapes))).items()}
    executor = symbol.bind(mx.cpu(), arguments, grad_req="null", aux_states=states)
    return executor.forward(is_train=False)[0].asnumpy()


def recorded_network(case: Case) -> Tuple[str, Dict[str, Any]]:
    """The arguments of ``get_symbol`` for a case named ``net_NETWORK``, with ``_se`` or without.

    Settings of the case by those names (``version_input`` ...) count too; other words after the
    network tell such cases apart.
    """
    _, network, *words = case["name"].split("_")
    options = {"embedding_size": case.get("emb_size", 512), "version_se": int("se" in words)}
    options.update((key, value) for key, value in case.items() if key.startswith("version_"))
    return network, options


def _network(case: Case, recorded: Arrays) -> float:
    """Names and shapes (or names alone, where a list is recorded), and ``fc1`` where it is."""
    network, options = recorded_network(case)
    symbol = networks.get_symbol(network, **options)
    shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    for ours, names in ((dict(zip(symbol.list_arguments(), shapes)), case["args"]),
                        (dict(zip(symbol.list_auxiliary_states(), aux_shapes)), case["aux"])):
        if not isinstance(names, dict):
            same = sorted(ours) == sorted(names)
        else:
            same = {name: list(shape) for name, shape in ours.items()} == names
        if not same:
            return float("nan")
    if "data" not in recorded:
        return 0.0
    return relative_error(network_output(network, recorded["data"], **options), recorded["fc1"])


def _verification(case: Case, recorded: Arrays) -> float:
    distances = verification.pair_distances(recorded["embeddings"])
    accuracy, _ = verification.accuracy_per_fold(distances, recorded["issame"])
    true, false = verification.mean_roc(distances, recorded["issame"])
    return max(relative_error(accuracy, recorded["accuracy_per_fold"]),
               relative_error(true, recorded["tpr"]), relative_error(false, recorded["fpr"]))


# Prefix of a case's name -> how to compare it: (case, recorded arrays) -> relative error.
CASES: Dict[str, Callable[[Case, Arrays], float]] = {
    "softmax_": _softmax,
    "nr_": _nra,
    "unequal_": _unequal,
    "net_": _network,
    "verification": _verification,
    "mining": _mining,
}


def read(directory: str) -> Tuple[Dict[str, Case], Arrays]:
    """Cases {name: settings} and arrays {"name/array": values} of a recording.

    Raises
    ------
    InputError
        When a file is missing or unreadable.
    """
    path = os.path.join(directory, NAME + ".json")
    try:
        with open_input(path, MAX_TABLE, encoding="utf-8") as file:
            cases = json.load(file)
        if not isinstance(cases, dict):
            raise ValueError("expected an object of cases")
        for name, case in cases.items():
            if not isinstance(case, dict):
                raise ValueError(f"case {name} is not an object")
        path = os.path.join(directory, NAME + ".npz")
        with open_input(path) as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            return cases, {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; DIR must hold {NAME}.json and "
                         f"{NAME}.npz.") from None
    except (ValueError, EOFError, RecursionError, NotImplementedError, zipfile.BadZipFile,
            zlib.error) as error:
        raise InputError(f"{path}: not a readable recording ({error}).") from None


def compare(directory: str) -> Iterator[Tuple[str, float]]:
    """Yield ``(name, relative error)`` for each recorded case, in order of name.

    The error is the largest over the case's outputs and gradients, relative to the largest value of
    each; nan when names or shapes differ.

    Raises
    ------
    InputError
        When the recording is missing or unreadable, or a case is of unknown kind or incomplete.
    """
    cases, arrays = read(directory)
    for name in sorted(cases):
        compare_case = next((function for prefix, function in CASES.items()
                             if name.startswith(prefix)), None)
        if compare_case is None:
            raise InputError(f"{os.path.join(directory, NAME + '.json')}: case {name} is of no "
                             f"known kind ({', '.join(CASES)}).")
        recorded = {key[len(name) + 1:]: value for key, value in arrays.items()
                    if key.startswith(name + "/")}
        try:
            error = compare_case(dict(cases[name], name=name), recorded)
        except KeyError as missing:
            raise InputError(f"{directory}: case {name} lacks {missing}.") from None
        except mx.base.MXNetError as failure:
            raise InputError(f"{directory}: case {name} cannot be computed "
                             f"({str(failure).strip().splitlines()[-1].strip()}).") from None
        yield name, error


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``unequal parity``."""
    parser.add_argument("directory", metavar="DIR", help="the recording")
    parser.add_argument("--tolerance", type=real(0), default=1e-4,
                        help="largest relative error that passes (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Print what it ran with, then one line a case; exit code 1 when any fails."""
    logger.info("computed on the CPU in float32 by mxnet %s (%s threads), whatever GPUs there are; "
                "`make test-gpu` compares those with the CPU", mx.__version__,
                os.environ["OMP_NUM_THREADS"])
    failed = False
    for name, error in compare(options.directory):
        passed = error <= options.tolerance  # false for nan
        failed |= not passed
        say(f"{plain(name):32s} {error:10.3g} {'ok' if passed else 'FAIL'}")
    return int(failed)
