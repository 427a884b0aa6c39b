"""Step 3.2 of the recipe: training with the noise-robust loss (NRA). `sh NRA.sh` calls it.

    CUDA_VISIBLE_DEVICES='0,1' python -u train_relusoft.py --network r50 --loss-type 4 \\
        --margin-m 0.5 --data-dir ./MF2_pic9_head/ --lr 0.01 --lr-steps 50000,90000 \\
        --per-batch-size 100 --noise-beta 0.9 --prefix ../models/NRA_r50pic9/model \\
        --bin-dir ./src/ --pretrained ../models/NRA_r50pic9/model_t,0

Images that look like nobody are listed in BIN_DIR/0_noiselist.txt and left out; the classifier of
the pretrained model is dropped and learned again.
"""
import logging
import os
import sys

import numpy as np

from unequal.commands import cli
from unequal.data import noise_lists
from unequal.errors import InputError
from unequal.models import noise_scan
from unequal.training import fit, setup, stages, state
from unequal.training.config import RelusoftConfig as Config


def make_list(args, run, path):
    if args.noise_threshold > 0:
        noise_scan.make_list(
            run.records, args.pretrained, run.margin, args.noise_threshold, path,
            devices=run.devices, batch_size=args.batch_size_mining)
    else:  # no probability is below 0: the reference makes the pass all the same
        noise_lists.write_list(path, {}, [])


def clean_keys(args, run):
    """Keys of the images that are not on the noise list, which is read or made."""
    path = args.noise_list
    if not path:
        if not args.pretrained:
            raise InputError("--pretrained is missing: step 3.2 starts from the model of step 3.1 "
                             "(train_relusoft_savemodel.py).")
        path = os.path.join(args.bin_dir or os.path.dirname(args.prefix), noise_lists.NAME)
        if args.resume and os.path.exists(state.path(args.prefix)) and os.path.exists(path):
            logging.info("%s: the list of the run to be continued", path)  # no second pass
        elif run.workers.rank == 0:
            make_list(args, run, path)
        run.workers.wait()
    _, noisy = noise_lists.read_list(path)
    keys = np.setdiff1d(run.records.image_keys, noisy)
    logging.info("%s: %d of %d images left out", path, len(run.records) - len(keys),
                 len(run.records))
    return keys


def main(args):
    run = setup.prepare(args)
    args = setup.overruled(args, run.num_classes)
    keys = clean_keys(args, run)
    if run.arg_params is not None:
        for name in ("fc7_weight", "fc7_bias"):
            run.arg_params.pop(name, None)
    fit.fit(stages.stage("step 3.2", args, run, keys), run, args)


if __name__ == "__main__":
    sys.exit(cli.run_script(main, Config, __doc__))
