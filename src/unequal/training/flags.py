"""Command lines of the entry scripts: the reference's flags, spelt as it spells them, and ours.

Flags of the reference keep their names and defaults (home directories excepted); ours have long,
dashed names. ``tests/training/test_flags.py`` freezes both lists.
"""
import argparse

# flag, type, default, help. Those marked (unused) do nothing in the reference either and are
# accepted so that command lines keep working.
NETWORK = (
    ("--network", str, "r50", "r18 ... r269, or n8 for small pictures"),
    ("--version-se", int, 0, "1: squeeze-and-excitation"),
    ("--version-input", int, 1, "0: 7x7 stride 2, 1: 3x3 stride 1 first convolution"),
    ("--version-output", str, "E", "how the embedding is made of the features"),
    ("--version-unit", int, 3, "kind of residual unit"),
    ("--version-act", str, "prelu", "prelu or relu"),
    ("--use-deformable", int, 0, "(unused)"),
    ("--emb-size", int, 512, "length of the embedding"),
    ("--bn-mom", float, 0.9, "momentum of BatchNorm's moving averages"),
)

MARGIN = (
    ("--loss-type", int, 4, "0 softmax, 1 sphere, 2 cosine margin, 4 ArcFace, 5 combined"),
    ("--margin-m", float, 0.5, "additive margin (radians; cosine for loss type 2)"),
    ("--margin-s", float, 64.0, "scale of the logits"),
    ("--margin-a", float, 1.0, "loss type 5: factor of the angle"),
    ("--margin-b", float, 0.0, "loss type 5: subtracted from the cosine"),
    ("--easy-margin", int, 0, "loss type 4: 1: no margin beyond 90 degrees"),
    ("--margin", int, 4, "loss type 1: factor of the angle"),
    ("--beta", float, 1000.0, "loss type 1: annealing, start value"),
    ("--beta-min", float, 5.0, "loss type 1: annealing, least value"),
    ("--beta-freeze", int, 0, "loss type 1: batches before annealing; also delays --lr-steps"),
    ("--gamma", float, 0.12, "loss type 1: beta * (1 + gamma * batch) ** -power"),
    ("--power", float, 1.0, "loss type 1: see --gamma"),
    ("--scale", float, 0.9993, "(unused)"),
    ("--fc7-wd-mult", float, 1.0, "factor of the classifier's weight decay"),
)

RUN = (
    ("--data-dir", str, "", "record set to train on"),
    ("--prefix", str, "../model/model",
     "of the checkpoints: PREFIX-symbol.json, PREFIX-NNNN.params"),
    ("--pretrained", str, "", "PREFIX,EPOCH of a checkpoint to start from"),
    ("--ckpt", int, 1, "PREFIX-NNNN at a verification: 0 never, 1 when better, 2 always"),
    ("--verbose", int, 2000, "batches between verifications"),
    ("--max-steps", int, 0, "stop after so many batches; 0: no limit"),
    ("--end-epoch", int, 100000, "stop after so many epochs"),
    ("--lr", float, 0.1, "learning rate"),
    ("--lr-steps", str, "", "batches after which lr falls tenfold: a,b,c"),
    ("--wd", float, 0.0005, "weight decay"),
    ("--mom", float, 0.9, "momentum"),
    ("--rand-mirror", int, 1, "1: mirror half of the pictures"),
    ("--cutoff", int, 0, "side of a square painted over at random; 0: none"),
    ("--target", str, "lfw,cfp_fp,agedb_30", "verification sets"),
    ("--log-file", str, "trainlog", "name of the machine-readable log: PREFIX-NAME.jsonl"),
    ("--log-dir", str, "", "its directory; default: beside the checkpoints"),
)

BATCH = (("--per-batch-size", int, 100, "batch size of each device"),)

# Step 3.
NOISE = (
    ("--noise-beta", float, 1.0, "trust in the label; the rest goes to the model's prediction"),
    ("--bin-dir", str, "", "directory of the noise list 0_noiselist.txt; empty: the checkpoints'"),
    ("--batch_size_mining", int, 20, "batch size of the pass that makes the noise list"),
)

# Step 4.
TAIL = (
    ("--noise", int, 1, "1: noise-robust loss on the head images; 0: cross-entropy"),
    ("--noise-beta", float, 0.9, "trust in the label; the rest goes to the model's prediction"),
    ("--batch-size1", int, 90, "head images a batch, over all devices"),
    ("--batchsize_id", int, 90, "tail images a batch, over all devices"),
    ("--images-per-identity", int, 3, "images of each tail identity in a batch"),
    ("--data-dir-interclass", str, "", "record set of the tail identities"),
    ("--bag-size", int, 3600, "tail images from which a batch is mined"),
    ("--batch-size2", int, 180, "batch size of the mining pass, over a worker's devices"),
    ("--interweight", str, "0.01", "weight of the center-dispersed loss; a list such as 1,5,10: "
                                   "one after the other, each from the best model so far"),
    ("--margin-inter", float, 1.0, "(unused)"),
)

# Not in the reference.
OURS_TAIL = (
    ("--mining", int, 1, "1: the tail identities the model confuses most; 0: random ones"),
    ("--bags", int, 100, "batches an epoch, each mined from a bag of its own"),
)
OURS_NOISE = (
    ("--mean-loss", int, 0, "1: the mean loss; 0: the sum over twice the batch, as the reference"),
    ("--gate", float, 0.0, "samples whose largest probability does not exceed it carry no weight"),
    ("--truth", str, "", "truth.csv of `unequal synth`: log how often predictions are right"),
)
OURS = (
    ("--seed", int, 0, "of the order, the augmentation and the initial weights"),
    ("--patience", int, 10, "stop when the mean accuracy over the targets has not risen for so "
                            "many verifications; 0: never"),
    ("--eval-dir", str, "", "directory of the verification sets"),
    ("--save-floor", float, 0.0, "PREFIX-NNNN only when the first target reaches this accuracy "
                                 "(the reference asks 0.975 to 0.99)"),
    ("--kv-store", str, "device", "local or device: one process; dist_sync or dist_device_sync: "
                                  "one of several workers (`unequal launch`)"),
    ("--compress-gradients", float, 0.0, "between workers: 2 bits each, 0 or plus or minus this; "
                                         "0: uncompressed"),
    ("--devices", str, "", "cpu, cpu:N (N contexts) or gpu:0,1; default by CUDA_VISIBLE_DEVICES"),
)


def parser(description, *tables, **defaults):
    """An argument parser of flag tables; ``defaults`` replaces some of their defaults by name."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False)
    for table in tables:
        for flag, kind, default, text in table:
            name = flag[2:].replace("-", "_")
            result.add_argument(flag, type=kind, default=defaults.pop(name, default), help=text)
    assert not defaults, defaults
    result.add_argument("--resume", nargs="?", choices=("must", "auto"), const="must", default="",
                        help="continue the run of --prefix that was stopped; auto: or start one "
                             "when there is none")
    result.add_argument("--debug", action="store_true", help="show tracebacks")
    return result
