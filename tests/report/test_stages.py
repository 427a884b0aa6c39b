"""What a page says of a stage, from its log."""
from types import SimpleNamespace

import pytest

from unequal.report import stages

OPTIONS = {"loss_type": 4, "pretrained": "", "prefix": "x/models/arc", "noise_beta": 0.9}


@pytest.mark.parametrize("stage, changes, expected", (
    ("step 3.2", {"noise_beta": 0.3, "noise_list": "l"},
     "From scratch, 7 batches. Noise-robust loss on the head identities without the noise list; "
     "30% of it asks for the given label, the rest for the label that the model itself predicts."),
    ("step 3.2", {"pretrained": "a/b/model_t,0"},
     "From b/model_t,0, 7 batches. Noise-robust loss on the head identities; 90% of it asks for "
     "the given label, the rest for the label that the model itself predicts."),
    ("step 4, interweight 5", {"prefix": "x/all_w5", "interweight": "1,5", "batch_size1": 8,
                               "batchsize_id": 6, "noise": 0, "mining": 0},
     "From the best model of the weights before, 7 batches. 8 head and 6 tail images a batch; "
     "ArcFace on the head, and a loss that drives apart the centres of tail identities drawn at "
     "random."),
    ("step 9", {}, None),
))
def test_words_on_a_stage(stage, changes, expected):
    events = [{"event": "start", "stage": stage, "options": dict(OPTIONS, **changes)},
              {"event": "train", "step": 7}]
    assert stages.described(events, []) == expected
    assert stages.described([], []) is None


@pytest.mark.parametrize("start", ["x/models/arc,3", "x/models/arc,best"])
def test_a_stage_names_the_row_it_starts_from(start):
    events = [{"event": "start", "stage": "step 2", "options": dict(OPTIONS, pretrained=start)},
              {"event": "train", "step": 7}]
    rows = [{"name": "other", "model": "models/arcs,3"}, {"name": "first", "model": "models/arc,3"}]
    assert stages.described(events, rows).startswith("From “first”, 7 batches.")


def test_no_verification_chart_for_a_stage_that_was_not_verified():
    def events(results):
        return [{"event": "start", "options": OPTIONS},
                {"event": "train", "step": 2, "metrics": {"loss": 1.0}},
                {"event": "verify", "step": 2, "results": results}]
    run = SimpleNamespace(targets=["lfw"], rows=[{"name": "first"}, {"name": "second"}],
                          logs=[events({}), events({"lfw": {"accuracy_flip": 0.9}})])
    page = stages.learning_curves(run)
    first, second = page.split("second")
    assert "loss on the head" in first and "verification" not in first
    assert "verification" in second
