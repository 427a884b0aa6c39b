"""Step 2 of the recipe: ArcFace (or another margin) on the head identities.

    CUDA_VISIBLE_DEVICES='0,1' python -u train_softmax.py --network r50 --loss-type 4 \\
        --margin-m 0.5 --data-dir ./MF2_pic9_head/ --end-epoch 40 --per-batch-size 100 \\
        --prefix ../models/r50_arc_pic9/model 2>&1 | tee r50_arc_pic9.log
"""
import sys

from unequal.commands import cli
from unequal.data.augmentation import Augmentation
from unequal.data.batches import FaceIter
from unequal.symbols import heads
from unequal.training import fit, setup
from unequal.training.config import SoftmaxConfig as Config


def main(args):
    run = setup.prepare(args)
    args = setup.overruled(args, run.num_classes)
    batch_size = (args.per_batch_size or 128) * len(run.devices)  # of this worker
    symbol = heads.softmax_head(run.embedding, run.label, run.num_classes, args.emb_size,
                                run.margin, index=False)
    data = FaceIter(run.records, batch_size,
                    Augmentation(mirror=0.5 * args.rand_mirror, cutoff=args.cutoff), seed=args.seed,
                    num_parts=run.workers.count, part_index=run.workers.rank)
    default_steps = (16000, 24000) if args.loss_type == 0 else (32000, 48000, 60000)
    fit.fit(
        fit.Stage(
            "step 2", symbol, data,
            setup.lr_steps(args, default_steps, batch_size * run.workers.count),
            metrics=[fit.Metric("acc", ["label_probability", "largest_probability"],
                                fit.accuracy),
                     fit.Metric("softmaxloss", ["label_probability"], fit.cross_entropy)],
            before_batch=setup.sphere_annealing(args, run.num_classes)),
        run, args)


if __name__ == "__main__":
    sys.exit(cli.run_script(main, Config, __doc__))
