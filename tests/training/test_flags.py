"""The reference's command lines must keep working: flags, types and defaults are frozen here."""
import runpy

import pytest

from helpers import ROOT
from unequal.training import flags as options

# train_softmax.py of the reference; only its home directories are replaced (--log-dir).
REFERENCE = {
    "--data-dir": "", "--prefix": "../model/model", "--pretrained": "", "--ckpt": 1,
    "--loss-type": 4, "--verbose": 2000, "--max-steps": 0, "--end-epoch": 100000,
    "--network": "r50", "--version-se": 0, "--version-input": 1, "--version-output": "E",
    "--version-unit": 3, "--version-act": "prelu", "--use-deformable": 0, "--lr": 0.1,
    "--lr-steps": "", "--wd": 0.0005, "--fc7-wd-mult": 1.0, "--bn-mom": 0.9, "--mom": 0.9,
    "--emb-size": 512, "--per-batch-size": 100, "--margin-m": 0.5, "--margin-s": 64.0,
    "--margin-a": 1.0, "--margin-b": 0.0, "--easy-margin": 0, "--margin": 4, "--beta": 1000.0,
    "--beta-min": 5.0, "--beta-freeze": 0, "--gamma": 0.12, "--power": 1.0, "--scale": 0.9993,
    "--rand-mirror": 1, "--cutoff": 0, "--bndrop": 0, "--target": "lfw,cfp_fp,agedb_30",
    "--log-file": "trainlog", "--log-dir": "",
}
OURS = {"--seed": 0, "--patience": 10, "--eval-dir": "", "--save-floor": 0.0, "--devices": "",
        "--kv-store": "device", "--compress-gradients": 0.0,
        "--resume": ""}


def flags(script):
    """``{flag: default}`` of an entry script."""
    module = runpy.run_path(str(ROOT / script))
    parser = options.parser("", *module["FLAGS"], **module.get("DEFAULTS", {}))
    return {action.option_strings[0]: action.default for action in parser._actions
            if action.dest not in ("help", "debug")}


def test_train_softmax_has_the_references_flags_and_ours():
    assert flags("train_softmax.py") == {**REFERENCE, **OURS}


def test_the_papers_command_line_is_understood():
    module = runpy.run_path(str(ROOT / "train_softmax.py"))
    args = options.parser("", *module["FLAGS"]).parse_args(
        "--network r50 --loss-type 4 --margin-m 0.5 --data-dir ./MF2_pic9_head/ --end-epoch 40 "
        "--per-batch-size 100 --prefix ../models/r50_arc_pic9/model".split())
    assert (args.network, args.end_epoch, args.per_batch_size) == ("r50", 40, 100)


def test_types_are_kept():
    parser = options.parser("", options.RUN, options.OURS)
    args = parser.parse_args(["--lr", "1", "--verbose", "5"])
    assert isinstance(args.lr, float) and isinstance(args.verbose, int)


def test_abbreviations_are_refused(capsys):
    """``--network r50 --margin 4`` must not turn into --margin-m some day."""
    with pytest.raises(SystemExit) as exit_:
        options.parser("", options.RUN).parse_args(["--data", "x"])
    assert exit_.value.code == 2


def test_defaults_can_be_replaced_by_name_only():
    assert options.parser("", options.RUN, lr=0.5).parse_args([]).lr == 0.5
    with pytest.raises(AssertionError):
        options.parser("", options.RUN, learning_rate=0.5)
