"""What a page says of a stage, from its log."""
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
