import base64
import json
import re
import shutil
import sys
import warnings

import numpy as np
import pytest

from helpers.browser import browser, overflow, show_at  # noqa: F401  a fixture
from helpers.models import initialised
from unequal.commands import cli, report
from unequal.data import noise_lists
from unequal.data.records import RecordSet
from unequal.eval import bins, verification
from unequal.models import checkpoints
from unequal.models.embedder import Embedder, PictureList
from unequal.report import page, runs, stages
from unequal.report import pictures as report_pictures
from unequal.symbols import networks
from unequal.synthetic import dataset
from unequal.training import mining

pytest.importorskip("matplotlib")

SIDE = 16
TITLE = "A <b>run</b> & \"more\""


def _log(path, stage, options, events):
    """A training log whose first training must not count."""
    lines = [{"event": "start", "stage": "step 2", "options": {}},
             {"event": "train", "step": 900, "metrics": {"softmaxloss": 1e9}},
             dict(options=options, stage=stage, event="start")] + events
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _verified(step, rate):
    return {"event": "verify", "step": step, "results": {
        name: {"pairs": 40, "accuracy_flip": rate + place / 100}
        for place, name in enumerate(("lfw", "agedb_30"))}}


OPTIONS = {"loss_type": 4, "pretrained": "", "prefix": "x/models/arc", "noise_beta": 0.9}


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    """A tiny synth set, two networks of random weights, logs, scores and run.json."""
    directory = tmp_path_factory.mktemp("run")
    dataset.make_dataset(str(directory / "data"), seed=1, image_size=SIDE, head_identities=6,
                       head_images=12, tail_identities=14, eval_identities=20, eval_pairs=40)
    symbol = networks.get_symbol("n8", 8)
    (directory / "models").mkdir()
    for seed, name in enumerate(("arc", "all_w1")):
        checkpoints.save(str(directory / "models" / name), 3, symbol,
                         *initialised(symbol, (SIDE, SIDE), seed))
    _log(directory / "models" / "arc-trainlog.jsonl", "step 2", OPTIONS, [
        {"event": "train", "step": 20, "metrics": {"acc": 0.1, "softmaxloss": 3.25}},
        {"event": "lr", "step": 30, "lr": 0.01},
        {"event": "train", "step": 40, "metrics": {"acc": 0.2, "softmaxloss": 2.5}},
        _verified(40, 0.7)])
    _log(directory / "models" / "all_w1-trainlog.jsonl", "step 4, interweight 1", dict(
        OPTIONS, pretrained="x/models/arc,3", prefix="x/models/all_w1", interweight="1,5",
        eval_dir="x/validation/", batch_size1=8, batchsize_id=6, noise=1, mining=1), [
            {"event": "train", "step": 2, "metrics": {"softmaxloss": 3, "interloss": 0.5}},
            _verified(10, 0.8)])
    truth = noise_lists.read_truth(str(directory / "data" / "truth.csv"))
    with RecordSet(str(directory / "data" / "MF2_pic9_head")) as records:
        labels = records.labels()
        keys = records.image_keys
    random = np.random.RandomState(0)
    scores = random.permutation(len(keys)) / len(keys)
    (directory / "scores.csv").write_text("\n".join(["# 0", ",".join(noise_lists.COLUMNS)] + [
        f"{label},{key},0.75,0.125,{float(score)!r},{(label + 1) % 6}"
        for label, key, score in zip(labels, keys, scores)]) + "\n")
    listed = keys[scores < 0.2]
    (directory / "list.txt").write_text("".join(f"0 {key} 0.1 0.1\n" for key in listed))
    facts = {
        "title": TITLE, "data": "data", "seed": 0, "seconds": 83.2,
        "commands": ["make <demo>"], "rows": [
            {"name": "step 2: ArcFace", "model": "models/arc,3",
             "log": "models/arc-trainlog.jsonl", "accuracies": {"lfw": 0.75, "agedb_30": 0.625}},
            {"name": "step 4: <tail>", "model": "models/all_w1,3",
             "log": "models/all_w1-trainlog.jsonl", "accuracies": {"lfw": 0.7, "agedb_30": 0.725}}],
        "noise": {"list": "list.txt", "scores": "scores.csv", "truth": "data/truth.csv"},
        "tail": {"directory": "data/MF2_pic9_tail"}}
    (directory / "run.json").write_text(json.dumps(facts))
    return directory, facts, truth, dict(zip(keys, scores))


def _with(run_directory, tmp_path, **changes):
    """A run whose run.json differs; its paths still lead to the files."""
    facts = dict(run_directory[1], **changes)
    for name in ("data", "models", "scores.csv", "list.txt"):
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(run_directory[0] / name)
    (tmp_path / "run.json").write_text(json.dumps(
        {key: value for key, value in facts.items() if value is not None}))
    return report.Run(str(tmp_path))


def test_page_is_whole_escaped_and_always_the_same(run_directory, capsys):
    directory = run_directory[0]
    assert cli.main(["report", str(directory)]) == 0
    assert capsys.readouterr().out == f"{directory}/report.html\n"
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert "<title>A &lt;b&gt;run&lt;/b&gt; &amp; &quot;more&quot;</title>" in text
    assert "step 4: &lt;tail&gt;" in text and "<tail>" not in text and "make &lt;demo&gt;" in text
    assert re.findall("<h2.*?>(.*?)</h2>", text) == [heading for heading, _ in report.SECTIONS]
    assert "Seed 0, made in 1 min 23 s" in text
    assert "All faces on this page are drawn by a program" in text
    # Nothing is fetched: every address holds its content.
    sources = re.findall('(?:src|srcset|href)="([^"]*)"', text)
    assert {source.split(",")[0] for source in sources if source[0] != "#"} == {
        "data:image/jpeg;base64", "data:image/svg+xml;base64", "data:text/csv;base64"}
    links = {source[1:] for source in sources if source[0] == "#"}
    assert links == set(re.findall('id="([^"]*)"', text)) and len(links) == len(report.SECTIONS)
    assert "url(" not in text and "<script" not in text
    assert "default-src &#x27;none&#x27;" in text
    for element in ("table", "section", "figure", "article", "div", "p", "tr", "td", "picture"):
        assert len(re.findall(f"<{element}[ >]", text)) == text.count(
            f"</{element}>"), element
    other = directory / "sub" / "again.html"
    assert cli.main(["report", str(directory), "--out", str(other)]) == 0
    assert other.read_text(encoding="utf-8") == text


def test_in_a_browser_on_a_phone_and_a_screen(run_directory, browser):  # noqa: F811
    path = run_directory[0] / "report.html"
    if not path.exists():
        assert cli.main(["report", str(run_directory[0])]) == 0
    browser.get(path.as_uri())
    for width in (400, 1280):
        for scheme in ("light", "dark"):
            show_at(browser, width, scheme)
            assert overflow(browser) <= 0, (width, scheme)
    show_at(browser, 400)
    # No cell of a table is cut off, and a chart is as wide as the page.
    outside, narrow = browser.execute_script("""
        const ends = name => [...document.querySelectorAll(name)].map(
            element => element.getBoundingClientRect());
        return [ends("td, th").filter(box => box.right > 400).length,
                ends(".charts .chart").filter(box => box.width < 340).length]""")
    assert (outside, narrow) == (0, 0)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_accuracy_table(run_directory):
    text = stages.accuracy_table(report.Run(str(run_directory[0])))
    rows = [re.findall("<td.*?>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", text)[1:]]
    # 10 points are less than 40 pairs can tell apart, so nothing is starred.
    assert rows == [["step 2: ArcFace", "75.00", "62.50", "68.75"],
                    ["step 4: &lt;tail&gt;", "70.00", "72.50", "71.25"]]
    assert "<dd>From scratch, 40 batches. ArcFace on the head identities.</dd>" in text
    assert ("<dd>From “step 2: ArcFace”, 10 batches. 8 head and 6 tail images a batch; "
            "noise-robust loss on the head, and a loss that drives apart the centres of tail "
            "identities that the model confuses.</dd>") in text
    # 1.96 * sqrt(0.7125 * 0.2875 / 80)
    assert "over 80 pairs, a mean of 71.2 is uncertain by 9.9 either way" in text


def test_a_lead_beyond_chance_is_starred(run_directory, tmp_path):
    run = _with(run_directory, tmp_path, rows=[
        {"name": "a", "accuracies": {"lfw": 0.95, "agedb_30": 0.8}},
        {"name": "b", "accuracies": {"lfw": 0.55, "agedb_30": 0.75}}], data=str(
            run_directory[0] / "data"))
    text = stages.accuracy_table(run)
    # 40 points over 40 pairs, 5 over 40, and 22.5 over 80.
    assert re.findall("<td.*?>(.*?)</td>", text) == [
        "a", "★ 95.00", "80.00", "★ 87.50", "b", "55.00", "75.00", "65.00"]
    csv, = re.findall('href="data:text/csv;base64,([^"]*)"', text)
    assert base64.b64decode(csv).decode() == (
        "\"verification, %\",lfw,agedb_30,mean\na,95.00,80.00,87.50\nb,55.00,75.00,65.00\n")


def test_a_directory_of_logs_without_run_json(run_directory, tmp_path, capsys):
    models = tmp_path / "models"
    models.mkdir()
    _log(models / "arc-trainlog.jsonl", "step 2", OPTIONS, [
        _verified(40, 0.7), {"event": "save", "step": 40, "epoch": 1}, _verified(80, 0.6),
        {"event": "end", "step": 80, "best_epoch": 1}])
    with open(str(models / "arc-trainlog.jsonl"), "a") as file:
        file.write('{"event": "ver')  # killed while writing
    found = runs.Run(str(tmp_path))
    assert found.title == tmp_path.name
    assert found.rows == [{"name": "step 2: models/arc", "log": "models/arc-trainlog.jsonl",
                           "accuracies": {"lfw": 0.7, "agedb_30": 0.71}}]
    (models / "arc-0001.params").write_bytes(b"")
    assert runs.Run(str(tmp_path)).rows[0]["model"] == "models/arc,1"
    (models / "arc-0001.params").unlink()
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "step 2: models/arc" in (tmp_path / "report.html").read_text()


def test_logs_tell_pairs_and_sets(run_directory, tmp_path, caplog):
    """What was trained on is shown, and a lead that may be chance is not starred."""
    shutil.copytree(str(run_directory[0] / "models"), str(tmp_path / "models"))
    data = tmp_path / "data"
    shutil.copytree(str(run_directory[0] / "data"), str(data))
    options = dict(OPTIONS, data_dir=str(data / "MF2_pic9_head"),
                   data_dir_interclass=str(data / "MF2_pic9_tail"))
    for name, rate in (("arc", 0.7), ("all_w1", 0.75)):
        _log(tmp_path / "models" / (name + "-trainlog.jsonl"), "step 2", options, [
            _verified(40, rate), {"event": "end", "step": 40, "best_epoch": 3}])
    text = report.render(runs.Run(str(tmp_path)))
    assert "★ 7" not in text and "over 80 pairs, a mean of 7" in text
    headings = ["Accuracy after each stage", "Learning curves", "A map of the embedding",
                "The tail identities that the model confuses most"]
    assert re.findall("<h2.*?>(.*?)</h2>", text) == headings
    (data / "MF2_pic9_tail" / "train.idx").write_text("not an index")
    shutil.rmtree(str(data / "MF2_pic9_head"))
    text = report.render(runs.Run(str(tmp_path)))
    assert re.findall("<h2.*?>(.*?)</h2>", text) == headings[:2]
    assert "left out of the page: " in caplog.text and "train.idx" in caplog.text


def test_missing_accuracies_and_ties(run_directory, tmp_path):
    run = _with(run_directory, tmp_path, rows=[
        {"name": "a", "accuracies": {"lfw": 0.70001}},
        {"name": "b", "accuracies": {"lfw": 0.70002, "mine": 0.5}}])
    text = stages.accuracy_table(run)
    assert re.findall("<td.*?>(.*?)</td>", text) == [
        "a", "70.00", "-", "-", "b", "70.00", "★ 50.00", "★ 60.00"]
    assert "<dd>" not in text and "uncertain" not in text


def test_learning_curves_show_the_last_training(run_directory, monkeypatch):
    lines, falls, limits, titles = [], [], [], []

    class Axes:
        def plot(self, x, y, **_):
            lines.append((list(x), [round(float(value), 6) for value in y]))

        def axvline(self, x, **_):
            falls.append(x)

        def set(self, **_):
            pass

        def set_ylim(self, low, high):
            limits.append((low, high))

    def chart(draw, description):
        draw(Axes(), lambda line: "red")
        titles.append(description)
        return page.Html()

    monkeypatch.setattr(page, "chart", chart)
    stages.learning_curves(report.Run(str(run_directory[0])))
    # As logged, then smoothed, which two points are not.
    assert lines == [([20, 40], [3.25, 2.5]), ([20, 40], [3.25, 2.5]),
                     ([40], [70]), ([40], [71]), ([40], [70.5]), ([2], [3]), ([2], [3]),
                     ([2], [0.5]), ([2], [0.5]), ([10], [80]), ([10], [81]), ([10], [80.5])]
    assert falls == [30, 30]
    assert limits == [(69, 82), (69, 82)]
    assert titles[1] == "verification over batches"
    assert titles[4] == "verification on validation over batches"


def test_roc_areas(run_directory):
    directory = run_directory[0]
    text = stages.roc_curves(report.Run(str(directory)))
    cells = re.findall("<td.*?>(.*?)</td>", text)
    expected = []
    for name, prefix in (("step 2: ArcFace", "arc"), ("step 4: &lt;tail&gt;", "all_w1")):
        expected.append(name)
        model = Embedder.from_checkpoint(str(directory / "models" / prefix) + ",3", (SIDE, SIDE))
        for target in ("lfw", "agedb_30"):
            pictures, issame = bins.load_bin(
                str(directory / "data" / "eval_dataset" / (target + ".bin")))
            plain, flipped = model.embed(PictureList(pictures, target), flip=True)
            distances = verification.pair_distances(plain + flipped)
            # The share of pairs (same, different) in the right order.
            area = np.mean(distances[issame][:, None] < distances[~issame])
            expected.append(f"{100 * area:.2f}")
    assert cells == expected
    assert text.count("<picture>") == 2


def test_suspects_are_the_lowest_scores(run_directory):
    _, _, truth, scores = run_directory
    text = report_pictures.suspects(report.Run(str(run_directory[0])))
    worst = sorted(scores, key=scores.get)[:report_pictures.SUSPECTS]
    assert [int(key) for key in re.findall(r"<figcaption>image (\d+)<", text)] == worst
    cards = re.findall("<article>(.*?)</article>", text)
    for key, card in zip(worst, cards):
        identity, kind = truth[key]
        words = {"flip": f"Wrong label: this is {identity}", "split": f"Second label of {identity}",
                 "outlier": "Nobody of the set", "clean": "The label is right"}
        assert f">{words[kind]}</p>" in card
        assert card.count("<img") == 3 and "has a probability of 75.0%, the label of 12.5%" in card
    wrong = np.mean([kind != "clean" for _, kind in truth.values()])
    shown = sum(truth[key][1] != "clean" for key in worst)
    assert (f"In truth {shown} of these 24 labels are wrong; in the whole set {wrong:.0%} are."
            in text)


def test_typical_picture_is_the_least_suspected_of_the_label(run_directory):
    directory, _, _, scores = run_directory
    text = report_pictures.suspects(report.Run(str(directory)))
    with RecordSet(str(directory / "data" / "MF2_pic9_head")) as records:
        for words in ("label", "predicted"):
            label = int(re.search(f"<figcaption>{words} (\\d+)<", text).group(1))
            best = max((key for key in records.image_keys if records.image(key)[0] == label),
                       key=scores.get)
            assert page.picture(records.image(best)[1], "", f"{words} {label}") in text


def test_noise_quality(run_directory):
    _, _, truth, scores = run_directory
    text = report_pictures.noise_quality(report.Run(str(run_directory[0])))
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", text)[1:]]
    found = {row[0]: row[1:] for row in rows}
    for name, kinds in (("wrong label", ["flip"]), ("nobody of the set", ["outlier"]),
                        ("all noise", ["flip", "split", "outlier"])):
        among = [key for key in sorted(scores, key=scores.get)
                 if truth[key][1] in kinds + ["clean"]]
        noisy = [truth[key][1] != "clean" for key in among]
        listed = sum(scores[key] < 0.2 for key in among)
        precisions = [np.mean(noisy[:place + 1]) for place, bad in enumerate(noisy) if bad]
        assert found[name] == [str(sum(noisy))] + [f"{100 * value:.1f}" for value in (
            np.mean(noisy), np.mean(precisions), np.mean(noisy[:listed]),
            sum(noisy[:listed]) / sum(noisy))], name


def test_noise_without_a_list_or_truth(run_directory, tmp_path):
    run = _with(run_directory, tmp_path, noise={"scores": "scores.csv", "truth": "data/truth.csv"})
    text = report_pictures.noise_quality(run)
    assert "recall, %" not in text and "noise list" not in text
    run = _with(run_directory, tmp_path, noise={"scores": "scores.csv"})
    assert report_pictures.noise_quality(run) is None
    text = report_pictures.suspects(run)
    assert "In truth" not in text and 'class="hit"' not in text


def test_confusable_pairs(run_directory):
    directory = run_directory[0]
    text = report_pictures.confusable_pairs(report.Run(str(directory)))
    shown = [[int(label) for label in re.findall(r"<figcaption>identity (\d+)<", card)]
             + [float(re.search(r"cosine (-?[\d.]+)", card).group(1))]
             for card in re.findall("<article>(.*?)</article>", text)]
    assert len(shown) == report_pictures.PAIRS
    # The whole tail fits into one bag, so it is three random images of each identity.
    cosines = [cosine for _, _, cosine in shown]
    assert len({frozenset(pair[:2]) for pair in shown}) == len(shown)
    assert "Between all of the 14 identities" in text
    # Those shown are the closest: recompute from the images that the page shows.
    model = Embedder.from_checkpoint(str(directory / "models" / "all_w1") + ",3", (SIDE, SIDE))
    with RecordSet(str(directory / "data" / "MF2_pic9_tail")) as records:
        for card, (one, other, cosine) in zip(re.findall("<article>(.*?)</article>", text), shown):
            keys = [int(key) for key in re.findall('alt="image (\\d+)"', card)]
            labels = np.array([records.image(key)[0] for key in keys])
            assert list(dict.fromkeys(labels.tolist())) == [one, other]
            plain, _ = model.embed(records, np.array(keys))
            _, centers = mining.identity_centers(plain, labels)
            unit = centers / np.linalg.norm(centers, axis=1, keepdims=True)
            assert unit[0] @ unit[1] == pytest.approx(cosine, abs=6e-4)
    median = float(re.search(r"the median is (-?[\d.]+)\.", text).group(1))
    assert min(cosines) > median


def test_rows_alone_suffice(run_directory, tmp_path):
    run = _with(run_directory, tmp_path, data=None, noise=None, tail=None, commands=None,
                seconds=None, seed=None, rows=[{"name": "a", "accuracies": {"lfw": 0.5}}])
    text = report.render(run)
    assert re.findall("<h2.*?>(.*?)</h2>", text) == ["Accuracy after each stage"]
    assert "drawn by a program" not in text


def test_what_is_not_there_is_left_out(run_directory, tmp_path, caplog):
    run = _with(run_directory, tmp_path, data="nowhere", tail={"directory": "none"},
                rows=[{"name": "a", "accuracies": {"lfw": 0.5}, "log": "no.jsonl"}])
    assert re.findall("<h2.*?>(.*?)</h2>", report.render(run)) == [
        "Accuracy after each stage", "How good the suspicion is", "The commands"]
    assert "no.jsonl is not there: left out of the page" in caplog.text


@pytest.mark.parametrize("content, message", (
    (None, "neither run.json nor a training log (PREFIX-trainlog.jsonl)"),
    ("{", "run.json: expected JSON with a title and rows"),
    ("[1]", "run.json: expected JSON with a title and rows"),
    ('{"title": "a", "rows": [{"name": "b"}]}', "each with a name and accuracies"),
    ('{"title": "a", "rows": [{"name": "b", "accuracies": {"lfw": "high"}}]}', "expected JSON"),
    ('{"title": "a", "rows": [{"name": "b", "accuracies": {}, "log": "run.json"}]}',
     "run.json, line 1: not an event of a training log"),
    ('{"title": "a", "rows": [{"name": "b", "accuracies": {"lfw": 1}, "model": "m,1"}],'
     '"tail": {"directory": "tail"}}', "tail/property: no such file"),
    ('{"title": "a", "rows": []}', "run.json: expected JSON"),
    ('{"title": "a", "rows": [{"name": "b", "accuracies": {"lfw": 1}}], "data": ".",'
     '"noise": {"scores": "run.json"}}',
     "run.json: not a whole file of scores; `unequal noise --scores` writes one."),
))
def test_bad_runs(tmp_path, capsys, content, message):
    for name in ("tail", "MF2_pic9_head"):
        (tmp_path / name).mkdir()
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert cli.main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: ") and message in error[-1]
    assert not (tmp_path / "report.html").exists()


def test_without_matplotlib(run_directory, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["report", str(run_directory[0])]) == 1
    error = capsys.readouterr().err
    assert "report.html: plots need matplotlib; install the extra [plots]" in error


def test_a_log_without_steps_or_sets(tmp_path):
    """An event that says not when, and a verification of nothing."""
    path = tmp_path / "m-trainlog.jsonl"
    start = {"event": "start", "stage": "step 2", "options": {}}
    path.write_text("\n".join(map(json.dumps, [start, {"event": "lr", "lr": 0.1}, start])) + "\n")
    assert cli.main(["report", str(tmp_path)]) == 1
    path.write_text("\n".join(map(json.dumps, [
        start, {"event": "train", "step": 1, "metrics": {"loss": 2}},
        {"event": "verify", "step": 1, "results": {}}])) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main(["report", str(tmp_path)]) == 0
