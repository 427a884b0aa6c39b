"""The flags of the entry scripts as they are frozen, and as they are."""
import runpy

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
OURS = {"--seed": 0, "--patience": 10, "--select": "mean", "--state-minutes": 0.0, "--warmup": 0,
        "--lr-schedule": "step", "--accumulate": 1, "--tensorboard": "", "--csv": 0,
        "--eval-dir": "", "--save-floor": 0.0, "--devices": "", "--kv-store": "device",
        "--compress-gradients": 0.0, "--config": "", "--sub-centers": 1, "--dtype": "float32",
        "--save-memory": 0, "--model-parallel": 0, "--resume": ""}
NRA = {"--noise-beta": 1.0, "--bin-dir": "", "--batch_size_mining": 20}
TAIL = {"--noise": 1, "--noise-beta": 0.9, "--batch-size1": 90, "--batchsize_id": 90,
        "--images-per-identity": 3, "--data-dir-interclass": "", "--bag-size": 3600,
        "--batch-size2": 180, "--interweight": "0.01", "--margin-inter": 1.0, "--lr": 0.001,
        "--verbose": 50}
# What a resumed run may change; a flag that is renamed must not silently become one.
FREE = {
    "resume", "debug", "config", "kv_store", "prefix", "data_dir", "data_dir_interclass",
    "eval_dir",
    "log_file", "log_dir", "bin_dir", "noise_list", "truth", "devices", "batch_size_mining",
    "verbose", "ckpt", "save_floor", "patience", "select",
    "state_minutes", "tensorboard", "csv",
    "max_steps", "end_epoch", "save_memory", "model_parallel"}
SHARED = {"prefix", "verbose", "ckpt", "patience", "select", "max_steps", "end_epoch",
          "save_memory", "model_parallel"}


def flags(script):
    """``{flag: default}`` of an entry script."""
    parser = options.parser("", runpy.run_path(str(ROOT / script))["Config"])
    return {action.option_strings[0]: action.default for action in parser._actions
            if action.dest not in ("help", "debug")}
