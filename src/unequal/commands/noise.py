"""``unequal noise``: score every image of a record set for label noise and list the worst."""
from unequal.commands import arguments
from unequal.data import noise_lists
from unequal.data.records import RecordSet
from unequal.eval import noise_scores
from unequal.models import noise_scan
from unequal.symbols import margins
from unequal.system import runtime
from unequal.training import config, flags


def configure(parser):
    """Arguments of ``unequal noise``."""
    parser.add_argument("directory", metavar="DIR", help="record set")
    parser.add_argument("--pretrained", required=True, metavar="P,E", help="model trained on it")
    parser.add_argument("--threshold", type=arguments.real(), required=True,
                        help="list images whose score is below (the authors' default: 0.007)")
    parser.add_argument("--method", choices=sorted(noise_scores.METHODS), default="max-probability",
                        help="default: %(default)s, the reference's")
    parser.add_argument("--out", required=True, metavar="F", help="the noise list to write")
    parser.add_argument("--scores", metavar="F", help="also keep every image's score")
    parser.add_argument("--truth", metavar="F", help="truth.csv: report how good the list is")
    arguments.add_inference(parser)
    flags.add_arguments(parser, config.Config, margins.Margin._fields)
    parser.add_argument("--fc7-wd-mult", type=arguments.real(), help="does nothing")


def run(args):
    """Write the list; print how many, and with ``--truth`` how good."""
    for row in flags.rows(config.Config):
        if row.name in margins.Margin._fields:
            row.check(getattr(args, row.name))
    settings = margins.Margin(**{name: getattr(args, name) for name in margins.Margin._fields})
    with RecordSet(args.directory) as records:
        columns, listed = noise_scan.make_list(
            records, args.pretrained, settings, args.threshold, args.out, method=args.method,
            devices=runtime.devices(args.devices or None), batch_size=args.batch_size,
            scores=args.scores)
    print("{}: {} of {} images listed".format(args.out, int(listed.sum()), len(listed)))
    if args.truth:
        print("{:10s}{:>8s}{:>11s}{:>9s}{:>19s}".format(
            "kind", "images", "precision", "recall", "average precision"))
        for kind, numbers in noise_scan.quality(
                columns, listed, noise_lists.read_truth(args.truth)):
            print("{:10s}{count:8d}{precision:11.3f}{recall:9.3f}{average_precision:19.3f}".format(
                kind, **numbers))
