"""Step 2 of the recipe: ArcFace (or another margin) on the head identities.

    CUDA_VISIBLE_DEVICES='0,1' python -u train_softmax.py --network r50 --loss-type 4 \\
        --margin-m 0.5 --data-dir ./MF2_pic9_head/ --end-epoch 40 --per-batch-size 100 \\
        --prefix ../models/r50_arc_pic9/model 2>&1 | tee r50_arc_pic9.log
"""
import sys

from unequal import cli, fit, options, run
from unequal.augmentation import Augmentation
from unequal.iterators import FaceIter
from unequal.symbols import margin

FLAGS = (options.NETWORK, options.MARGIN, options.RUN, options.BATCH,
         (("--bndrop", int, 0, "(unused)"),), options.OURS)


def main(args):
    setup = run.prepare(args)
    batch_size = (args.per_batch_size or 128) * len(setup.devices)  # of this worker
    symbol = margin.softmax_head(setup.embedding, setup.label, setup.num_classes, args.emb_size,
                                 setup.margin)
    data = FaceIter(setup.records, batch_size,
                    Augmentation(mirror=0.5 * args.rand_mirror, cutoff=args.cutoff), seed=args.seed,
                    num_parts=setup.workers.count, part_index=setup.workers.rank)
    default_steps = (16000, 24000) if args.loss_type == 0 else (32000, 48000, 60000)
    fit.fit(
        fit.Stage(
            "step 2", symbol, data,
            run.lr_steps(args, default_steps, batch_size * setup.workers.count),
            metrics=[fit.Metric("acc", ["prediction", fit.LABEL], fit.accuracy),
                     fit.Metric("softmaxloss", ["label_probability"], fit.cross_entropy)],
            before_batch=run.sphere_annealing(args, setup.num_classes)),
        setup, args)


if __name__ == "__main__":
    sys.exit(cli.run_script(main, options.parser(__doc__.splitlines()[0], *FLAGS)))
