"""Settings of a training that suit a set's size: ``unequal train auto``."""
import math

from unequal.training.config import SoftmaxConfig
from unequal.training.config import replace as replace

_SMALL = 20_000  # up to so many pictures the small network is used


def settings(directory: str, prefix: str, images: int, classes: int, *, seed: int = 0,
             devices: str = "", target: str = "", debug: bool = False) -> SoftmaxConfig:
    """The configuration of step 2 for a set of so many images and classes.

    A model that is to find wrong labels must not learn them. So training stops after nine epochs,
    when the model distinguishes the people but has not yet memorised single wrong labels (tried on
    300 photographs of 30 people with 45 wrong labels: docs/clean-your-photos.md). Larger sets, with
    more people to distinguish, get up to twenty. The margin is constant: batches without it first
    made wrong labels harder to find, on 300 photographs as on 2,880 drawn pictures.

    Parameters
    ----------
    directory, prefix : str
    images, classes : int
    seed, devices, target, debug
        As the flags of those names.

    Returns
    -------
    SoftmaxConfig
    """
    small = images <= _SMALL
    # A tenth of the set, so that an epoch has ten updates or more.
    batch = min(128, max(8, 2 ** int(math.log2(max(8, images // 9)))))
    epochs = min(20.0, 9 * max(1.0, images / 310) ** 0.4)
    steps = max(90, math.ceil(epochs * images / batch))
    return SoftmaxConfig(
        data_dir=directory, prefix=prefix, seed=seed, devices=devices, target=target, debug=debug,
        network="n8" if small else "r18" if images <= 500_000 else "r50",
        emb_size=128 if small else 512,
        # With the usual scale 64 and margin 0.5 so few updates would hardly learn anything.
        margin_s=16.0 if small else 32.0 if classes < 10_000 else 64.0,
        margin_m=0.3 if small else 0.5,
        per_batch_size=batch, max_steps=steps,
        lr_steps=f"{steps * 2 // 3},{steps * 8 // 9}", verbose=steps, ckpt=2, patience=0)
