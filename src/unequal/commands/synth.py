"""``unequal synth``: a drawn data set in MF2's format, with known label noise."""
import argparse

from unequal.commands import arguments
from unequal.synthetic import dataset
from unequal.system.text import say

# flag -> (kind, default, help)
_NUMBERS = {
    "seed": (int, 0, "the same seed gives the same bytes"),
    "image-size": (int, 32, "height and width in pixels"),
    "head-identities": (int, 120, "labels in MF2_pic9_head"),
    "head-images": (float, 24, "mean pictures a head label, at least 10"),
    "tail-identities": (int, 300, "labels in MF2_pic9_tail, 3 to 9 pictures each"),
    "eval-identities": (int, 300, "unseen people in the verification sets, and as many others in "
                                  "the validation sets"),
    "eval-pairs": (int, 600, "pairs in each verification set, a multiple of 20"),
    "noise": (float, 0.30, "share of head pictures under another identity's label"),
    "outliers": (float, 0.10, "share of head pictures of strangers or of no face"),
    "split": (float, 0.05, "share of head people with two labels"),
    "distractors": (int, 0, "strangers in an identification set; 0: no such set"),
}
# Other defaults. study: the noise of docs/study.md, and pairs enough for differences of a point.
PRESETS = {"study": {"noise": 0.40, "split": 0.0, "eval-pairs": 1400}}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``unequal synth``."""
    parser.description = (
        "Draw a data set of cartoon faces in MF2's format, with known label noise, for trying and "
        "testing the method; it says nothing about people.")
    parser.add_argument("directory", metavar="DIR", help="new directory to write")
    parser.add_argument("--preset", choices=sorted(PRESETS),
                        help="other defaults; study: " + ", ".join(
                            f"--{flag} {value:g}" for flag, value in PRESETS["study"].items()))
    for flag, (kind, default, text) in _NUMBERS.items():
        # make_dataset checks what the numbers mean; here only that they fit into memory.
        limited = arguments.integer(high=10 ** 7) if kind is int else arguments.real()
        if flag == "seed":
            limited = arguments.integer()
        parser.add_argument("--" + flag, type=limited,
                            help=f"{text} (default {default:g})")
    arguments.add_processes(parser)


def run(options: argparse.Namespace) -> None:
    """``unequal synth``: draw the data set and say what it holds."""
    preset = PRESETS.get(options.preset, {})
    for flag, (_, default, _) in _NUMBERS.items():
        name = flag.replace("-", "_")
        if getattr(options, name) is None:
            setattr(options, name, preset.get(flag, default))
    dataset.make_dataset(
        options.directory, seed=options.seed, image_size=options.image_size,
        head_identities=options.head_identities, head_images=options.head_images,
        tail_identities=options.tail_identities, eval_identities=options.eval_identities,
        eval_pairs=options.eval_pairs, noise=options.noise, outliers=options.outliers,
        split=options.split, distractors=options.distractors, processes=options.processes)
    identification = (f", identification ({dataset.PROBE_PEOPLE} people among "
                      f"{options.distractors} distractors)" if options.distractors else "")
    say(f"{options.directory}: MF2_pic9_head ({options.head_identities} identities), "
        f"MF2_pic9_tail ({options.tail_identities} identities), truth.csv, eval_dataset and "
        f"validation_dataset ({options.eval_pairs} pairs each of "
        f"{', '.join(dataset.TARGETS)}){identification}")
