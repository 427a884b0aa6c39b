"""The study's own arithmetic: its lines, its intervals, its sets."""
import argparse
import contextlib
import json

import _real_faces_arms as arms
import _real_faces_page as page
import numpy as np
import pytest
import real_faces
from _real_faces_arms import Key

from helpers.pictures import encoded, smooth
from unequal.data.records import RecordSet, RecordWriter


def line(key, right, **more):
    """A result line whose pairs are right where ``right`` (bool, (2, PAIRS)) says."""
    return dict({"kind": key.kind, "rate": key.rate, "seed": key.seed, "arm": key.arm,
                 "parent": arms.ARMS[key.arm].parent, "seconds": 10, "lists": {},
                 "right": dict(zip(arms.TARGETS, map(arms.packed, right))),
                 "report": {name: 100 * float(some.mean())
                            for name, some in zip(arms.TARGETS, right)}}, **more)


def pairs(share, seed):
    return np.random.RandomState(seed).rand(2, page.PAIRS) < share


def test_bits_survive():
    bits = pairs(0.7, 0)[0]
    assert (arms.unpacked(arms.packed(bits), page.PAIRS) == bits).all()


def test_every_arm_has_its_parent_and_a_place():
    assert {key.arm for key in arms.wanted()} == set(arms.ARMS)
    for arm in arms.ARMS.values():
        assert arm.parent is None or arm.parent in arms.ARMS
        assert callable(getattr(real_faces.Cell, arm.data))
        assert arm.start is None or callable(getattr(real_faces.Cell, arm.start))
        assert arm.noise_list is None or callable(getattr(real_faces.Cell, arm.noise_list))
    wanted = arms.wanted()
    assert len(set(wanted)) == len(wanted)
    for key in wanted:  # so that a sitting ends with whole comparisons
        parent = arms.ARMS[key.arm].parent
        if parent:
            assert key._replace(arm=parent) in wanted


def test_arms_that_are_compared_make_equal_updates():
    def updates(arm):
        flags = arms.ARMS[arm].flags
        count = len(flags[flags.index("--interweight") + 1].split(",")) if (
            "--interweight" in flags) else 1
        return count * int(flags[flags.index("--max-steps") + 1])

    for name in arms.ARMS:
        if arms.WARM[1] in arms.ARMS[name].flags[1:2]:
            assert updates(name) == updates("margin 0")
        elif name.endswith("sub-centers"):
            assert updates(name) == updates("ArcFace")
        elif name != "ArcFace":
            assert updates(name) == updates(page.control_of(name))


def test_lines_of_a_killed_run(tmp_path):
    key = Key("uniform", 0.4, 1, "ArcFace")
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(line(key, pairs(0.8, 0))) + '\n{"kind": "uni')
    assert list(arms.read_results(path)) == [key]
    assert arms.read_results(tmp_path / "none") == {}


def lines_of(gain, seeds):
    """Two arms, the second right on ``gain`` of the pairs more, on each seed."""
    found = {}
    for seed in range(seeds):
        base = pairs(0.7, seed)
        better = base.copy()
        wrong = np.argwhere(~base)
        some = np.random.RandomState(seed).permutation(len(wrong))[:int(gain * base.size)]
        better[tuple(wrong[some].T)] = True
        for arm, right in (("continued", base), ("NRA 0.5", better)):
            key = Key("uniform", 0.4, seed, arm)
            found[key] = line(key, right)
    return found


def test_paired_difference():
    found = page.difference(lines_of(0.02, 3), "uniform", 0.4, "NRA 0.5", "continued")
    assert found.mean == pytest.approx(2, abs=0.01) and found.seeds == 3
    # Of 4,200 pairs 84 differ, all one way: sqrt(84) / 4200 is 0.22 points.
    assert 0.3 < found.high - found.low < 1.2
    assert found.low > 1
    assert page.difference(lines_of(0, 1), "uniform", 0.4, "NRA 0.5", "continued")[:3] == (0, 0, 0)
    assert page.difference(lines_of(0, 1), "uniform", 0.2, "NRA 0.5", "continued") is None


def test_last_checkpoints_are_compared_apart():
    found = lines_of(0.02, 1)
    better, control = (found[Key("uniform", 0.4, 0, arm)] for arm in ("NRA 0.5", "continued"))
    better["last"] = {"right": control["right"], "report": control["report"]}
    assert page.difference(found, "uniform", 0.4, "NRA 0.5", "continued").mean > 1.9
    assert page.difference(found, "uniform", 0.4, "NRA 0.5", "continued", page.final).mean == 0


def test_early_arms_are_compared_from_where_they_began():
    for name, arm in arms.ARMS.items():
        control = page.control_of(name)
        # The same checkpoint to start from, and no list, no second term.
        if name.endswith(", early"):
            assert (arms.ARMS[control].parent, arms.ARMS[control].start) == (
                arm.parent, arm.start)
        assert arms.ARMS[control].noise_list is None
    assert page.control_of("3 sub-centers, dropped") == "continued, early"
    assert page.control_of("tail as classes, early") == "continued, early"  # 500 updates, not 300
    arcface, early = Key("uniform", 0.4, 0, "ArcFace"), Key("uniform", 0.4, 0, "NRA 0.5, early")
    lines = {arcface: line(arcface, pairs(0.7, 0), training={"recognised_margin": 50.0},
                           curve=[{"recognised_margin": 13.0, "step": 250},
                                  {"recognised_margin": 22.0, "step": 500}])}
    late = early._replace(arm="NRA 0.5")
    assert page.start_of(lines, early)["training"]["recognised_margin"] == 22.0
    assert page.start_of(lines, late)["training"]["recognised_margin"] == 50.0
    assert page.start_of({}, late) is None and page.start_of({}, early) is None


def test_seeds_that_disagree_widen_the_interval():
    agree, differ = lines_of(0.02, 2), lines_of(0.02, 2)
    good, control = (Key("uniform", 0.4, 1, arm) for arm in ("NRA 0.5", "continued"))
    differ[good], differ[control] = differ[control], differ[good]
    widths = [found.high - found.low for found in (
        page.difference(some, "uniform", 0.4, "NRA 0.5", "continued") for some in (agree, differ))]
    assert widths[1] > 4 * widths[0]


def test_page_and_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "REPLICATES", 50)
    numbers = {"recognised": 95.0, "recognised_margin": 50.0, "wrong": 40.0, "right": 30.0,
               "differ_right": 45.0}
    found = {key: dict(some, training=numbers, tail_cosine=0.4, commit="c", sha256="s",
                       command="train " + key.arm, checkpoint=key.arm)
             for key, some in lines_of(0.02, 2).items()}
    for seed in range(2):
        for arm in ("margin 0", "ArcFace"):
            key = Key("uniform", 0.4, seed, arm)
            found[key] = line(key, pairs(0.7, 9), training=numbers, tail_cosine=0.4, commit="c",
                              sha256="s", command="train " + arm, checkpoint=arm,
                              curve=[dict(numbers, step=step) for step in (1, 2)])
    (tmp_path / "study.md").write_text("# By hand\n" + page.MARK + "old")
    page.write(found, arms.wanted(), tmp_path)
    text = (tmp_path / "study.md").read_text()
    assert text.startswith("# By hand\n") and "old" not in text
    assert f"8 of {len(arms.wanted())} lines are there" in text
    assert "| NRA 0.5 | 2 |" in text and "+2.0 [" in text
    assert "50.0 (≥ 40) | yes |" in text
    assert (tmp_path / "study_gain.png").exists() and (tmp_path / "study_curve.png").exists()
    real_faces.write_checkpoints(found, tmp_path / "checkpoints.json")
    table = json.loads((tmp_path / "checkpoints.json").read_text())
    assert table["NRA 0.5"]["commands"] == ["train margin 0", "train ArcFace", "train NRA 0.5"]


def test_sets_joined(tmp_path):
    picture = encoded(smooth(16, 16))
    for name, counts in (("a", (2, 1)), ("b", (1, 2))):
        with RecordWriter(str(tmp_path / name), (16, 16)) as writer:
            for label, count in enumerate(counts):
                for number in range(count):
                    writer.add(label, picture + f"{name}{label}{number}".encode())
    real_faces.write_set(str(tmp_path / "all"), [
        (str(tmp_path / "a"), {2: 1}, 0), (str(tmp_path / "b"), {}, None)])
    with RecordSet(str(tmp_path / "all")) as records:
        assert [(label, data[-3:].decode()) for label, data in map(
            records.image, records.image_keys)] == [
                (0, "a00"), (1, "a01"), (1, "a10"), (2, "b00"), (3, "b10"), (3, "b11")]
        assert records.num_classes == 4


def test_processes_share_the_work(tmp_path, monkeypatch):
    """A set that another process has locked is left to it; what it finished is not done again."""
    options = argparse.Namespace(work=str(tmp_path), results=str(tmp_path / "lines.jsonl"))
    done = []

    def run(cell, name):
        key = Key(cell.kind, cell.rate, cell.seed, name)
        done.append(key)
        return line(key, pairs(0.8, 0), validation={})

    monkeypatch.setattr(real_faces.Cell, "run", run)
    monkeypatch.setattr(real_faces.time, "sleep", lambda _: holder.close())  # the other one ends
    keys = [Key("uniform", 0.4, seed, "continued") for seed in (0, 1)]
    first, second = real_faces.Study(options), real_faces.Study(options)
    holder = contextlib.ExitStack()
    assert holder.enter_context(first.locked(keys[0]))
    second.do_all(keys, None)
    assert [(key.seed, key.arm) for key in done] == [
        (seed, arm) for seed in (1, 0) for arm in ("margin 0", "ArcFace", "continued")]
    first.do_all(keys, None)
    assert len(done) == 6
    second.do_all([keys[0]._replace(seed=2)], until=1.0)
    assert len(done) == 6


def test_every_arm_has_a_row_in_the_table_of_gains(monkeypatch):
    """Also those that only begin half-way, or with a model of several centres."""
    monkeypatch.setattr(page, "REPLICATES", 2)
    found = {}
    for arm in arms.ARMS:
        key = Key("uniform", 0.4, 0, arm)
        found[key] = line(key, pairs(0.7, 0))
    table = [list(map(str.strip, row.split("|")[1:-1]))
             for row in page.starts(found).splitlines()[2:]]
    rows = [row[2] for row in table]
    early = {arm.replace(", early", "") for arm in arms.ARMS
             if arm.endswith(", early") or arms.ARMS[arm].start}
    assert set(rows) == early - {"continued", "tail, weight 0"} and len(rows) == len(set(rows))
    # A gain stands in the columns of where the arm begins, and in no others.
    for _, _, arm, _, last, _, half_way, _ in table:
        assert bool(last) == (arm in arms.ARMS and not arms.ARMS[arm].start) and half_way
