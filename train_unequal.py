"""Step 4 of the recipe: head and tail identities in one batch, the tail without a classifier.

    CUDA_VISIBLE_DEVICES='0,1,2,3,4,5,6,7' python -u train_unequal.py --network r50 \\
        --loss-type 4 --data-dir ./MF2_pic9_head_denoise/ \\
        --data-dir-interclass ./MF2_pic9_tail/ --end-epoch 100000 --lr 0.001 --interweight 1 \\
        --bag-size 3600 --batch-size1 360 --batchsize_id 360 --batch-size2 40 \\
        --pretrained ../models/NRA_r50pic9/model,xx --prefix ../models/model_all/model

`--interweight 1,5,10` raises the weight by itself: a weight ends when verification no longer rises
(--patience); the next starts from the best model so far. Checkpoints of a weight w of such a list
are PREFIX_ww-NNNN.params. --resume skips the weights that have ended.
"""
import logging
import os
import sys

import numpy as np

from unequal.commands import cli
from unequal.data.augmentation import COLOR
from unequal.data.batches import UnequalIter
from unequal.data.records import RecordSet
from unequal.errors import InputError
from unequal.models import checkpoints
from unequal.models.embedder import Embedder
from unequal.symbols import heads
from unequal.training import fit, setup, state
from unequal.training.config import UnequalConfig as Config
from unequal.training.config import replace
from unequal.training.tail import Miner


def parse_weights(text):
    """``--interweight`` as a list of numbers."""
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        weights = [-1]
    if min(weights) < 0 or not np.isfinite(weights).all():
        raise InputError("--interweight {!r}: expected a number, or several with commas, such as "
                         "1,5,10.".format(text))
    return weights


def stage(weight, args, run, tail):
    """The stage at one weight of the center-dispersed loss."""
    devices = run.num_devices
    identities = args.batchsize_id // args.images_per_identity
    data = UnequalIter(
        run.records, tail, args.batch_size1, args.batchsize_id,
        COLOR._replace(mirror=0.5 * args.rand_mirror, cutoff=args.cutoff),
        devices=len(run.devices), images_per_identity=args.images_per_identity,
        batches=args.bags, seed=args.seed, num_parts=run.workers.count,
        part_index=run.workers.rank)
    symbol, saved_symbol = (
        heads.unequal_head(
            run.embedding, run.label, run.num_classes, args.emb_size, run.margin,
            head_size=args.batch_size1 // devices,
            tail_identities=identities // devices,
            images_per_identity=args.images_per_identity, interweight=weight,
            beta=args.noise_beta if args.noise else 1.0, normalizer=max(1, args.batch_size1 // 2),
            composed=composed, on_cpu=run.devices[0].device_type == "cpu", index=False)
        for composed in (False, True))
    miner = Miner(tail, identities, args.images_per_identity, args.bag_size, args.bags, args.seed)

    def choose_tail(epoch, arg_params, aux_params):
        if not args.mining:
            data.tail = miner.random(epoch)
            return
        embedder = Embedder(run.embedding, arg_params, aux_params, tail.image_size,
                            run.devices, args.batch_size2)
        data.tail = miner.mined(epoch, embedder, run.workers)

    return fit.Stage(
        "step 4, interweight {:g}".format(weight), symbol, data,
        setup.lr_steps(args, (100000, 140000, 160000), args.batch_size1),
        metrics=[fit.Metric("acc", ["label_log_probability", "largest_log_probability"],
                            fit.accuracy),
                 fit.Metric("softmaxloss", ["label_log_probability"], np.negative),
                 fit.Metric("interloss", ["tail_loss"], np.ravel)],
        verify_first=True, before_epoch=choose_tail,
        before_batch=setup.sphere_annealing(args, run.num_classes), log_every=2,
        saved_symbol=saved_symbol)


def main(args):
    weights = parse_weights(args.interweight)
    if not args.data_dir_interclass:
        raise InputError("--data-dir-interclass is missing: name the record set of the tail "
                         "identities (`unequal split` makes one).")
    run = setup.prepare(args)
    args = setup.overruled(args, run.num_classes)
    best = None
    with RecordSet(args.data_dir_interclass) as tail:
        for number, weight in enumerate(weights, 1):
            one = args
            if len(weights) > 1:
                # A list may be made longer before a resume, not changed in front.
                one = replace(args, prefix="{}_w{:g}".format(args.prefix, weight),
                              interweight=",".join(map("{:g}".format, weights[:number])))
            if not os.path.exists(state.path(one.prefix)) and (
                    number > 1 or args.resume != "must"):
                # Nor do the weights after this one continue anything.
                args, one = replace(args, resume=""), replace(one, resume="")
            found = fit.fit(stage(weight, one, run, tail), run, one)
            if found.epoch is not None and (best is None or found.mean > best[0]):
                best = found.mean, one.prefix, found.epoch
            if number < len(weights) and best is not None:
                logging.info("the next weight starts from %s,%d with mean accuracy %1.5f",
                             *best[1:], best[0])
                _, *parameters = checkpoints.load(*best[1:])
                run = run._replace(arg_params=parameters[0], aux_params=parameters[1])


if __name__ == "__main__":
    sys.exit(cli.run_script(main, Config, __doc__))
