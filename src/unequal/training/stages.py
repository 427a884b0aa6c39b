"""Step 3 as a stage of the training loop, for its two entry scripts."""
import numpy as np

from unequal.data import noise_lists
from unequal.data.augmentation import COLOR
from unequal.data.batches import FaceIter
from unequal.symbols import heads
from unequal.training import fit, setup


def batch_size(args, run):
    """Pictures a batch, over all devices of this worker."""
    return (args.per_batch_size or 128) * len(run.devices)


def _disagree(own, largest):
    return own < largest


def _right_when_it_differs(truth):
    """Metric: of the samples whose prediction is not the label, how many show the predicted one."""
    people = {key: identity for key, (identity, _) in truth.items()}

    def right(prediction, label, keys):
        differs = prediction != label
        shown = np.array([people.get(int(key), -1) for key in keys])
        return (prediction == shown)[differs]

    return right


def stage(name, args, run, keys=None, stop_after_first=False):
    """The NRA stage on the images ``keys`` of the set (default all).

    At ``d`` devices (of all workers) and batch size ``n`` over all of them, the reference divides
    the summed loss by ``2 n`` and the gradient by ``d``: 1 / (2 d) of the mean loss's update.
    ``--mean-loss 1`` takes the mean.
    """
    size = batch_size(args, run)
    total = size * run.workers.count
    symbol, saved_symbol = (
        heads.nra_head(
            run.embedding, run.label, run.num_classes, args.emb_size, run.margin,
            beta=args.noise_beta, threshold=args.gate, composed=composed,
            on_cpu=run.devices[0].device_type == "cpu", index=bool(args.truth),
            normalizer=size // len(run.devices) if args.mean_loss else 2 * total)
        for composed in (False, True))
    data = FaceIter(run.records, size, COLOR._replace(mirror=0.5 * args.rand_mirror,
                                                        cutoff=args.cutoff),
                    keys=keys, seed=args.seed, num_parts=run.workers.count,
                    part_index=run.workers.rank)
    logs = ["label_log_probability", "largest_log_probability"]
    metrics = [fit.Metric("acc", logs, fit.accuracy),
               fit.Metric("loss", ["loss"], np.ravel),
               fit.Metric("differ", logs, _disagree)]
    if args.truth:
        metrics.append(fit.Metric("right", ["prediction", fit.LABEL, fit.KEY],
                                  _right_when_it_differs(noise_lists.read_truth(args.truth))))
    return fit.Stage(
        name, symbol, data, setup.lr_steps(args, (100000, 140000, 160000), total), metrics,
        loss_name="loss", verify_first=True, stop_after_first=stop_after_first,
        before_batch=setup.sphere_annealing(args, run.num_classes), saved_symbol=saved_symbol)
