import json

import pytest

from unequal.commands import cli
from unequal.models import checkpoints
from unequal.synthetic.dataset import make_dataset
from unequal.training import auto


@pytest.mark.parametrize("images, classes", [(2, 2), (40, 5), (310, 30), (2880, 120),
                                             (20_000, 900), (300_000, 5000), (5_000_000, 90_000)])
def test_settings_are_possible_at_every_size(images, classes):
    chosen = auto.settings("people", "model", images, classes)
    steps = [int(step) for step in chosen.lr_steps.split(",")]
    assert 0 < steps[0] < steps[1] < chosen.max_steps == chosen.verbose
    assert 8 <= chosen.per_batch_size <= 128
    # Small sets end within minutes: pictures shown, at 60 a second and more on two cores.
    if images <= 310:
        assert chosen.network == "n8"
        assert chosen.max_steps * chosen.per_batch_size < 60 * 300


def test_larger_sets_get_larger_networks():
    networks = [auto.settings("d", "p", images, 100).network
                for images in (300, 50_000, 2_000_000)]
    assert networks == ["n8", "r18", "r50"]


def test_train_auto_leaves_a_model_that_is_called_best(tmp_path, monkeypatch, caplog):
    make_dataset(str(tmp_path / "d"), head_identities=3, head_images=10, tail_identities=1,
                 eval_identities=20, eval_pairs=20, image_size=16)
    shorter = auto.settings
    monkeypatch.setattr(auto, "settings", lambda *sizes, **more: auto.replace(
        shorter(*sizes, **more), max_steps=2, lr_steps="1", verbose=2, per_batch_size=8))
    prefix = str(tmp_path / "m" / "model")
    caplog.set_level("INFO")
    assert cli.main(["train", "auto", str(tmp_path / "d" / "MF2_pic9_head"), "--prefix",
                     prefix]) == 0
    assert "--margin-m 0.3" in caplog.text and "the margin is constant" in caplog.text
    assert checkpoints.parse(prefix + ",best") == (prefix, 1)
    checkpoints.load(prefix, 1)
    with open(prefix + "-trainlog.jsonl", encoding="utf-8") as lines:
        assert json.loads(list(lines)[-1])["best_epoch"] == 1
