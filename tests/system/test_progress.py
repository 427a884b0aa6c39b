"""Progress where there is no terminal, and reports to a keeper."""
import logging
import os
import re

import pytest

from unequal.system import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def keeper(monkeypatch, clock):
    """The reading end of a keeper's pipe."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    monkeypatch.setattr(progress, "_reports", writer)
    monkeypatch.setattr(progress, "_last_report", 0.0)
    yield reader
    os.close(reader)
    os.close(writer)


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_line_every_thirty_seconds_with_speed_and_end(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress.Bar(100, "mining", "images") as bar:
        for _ in range(4):
            clock.now += 15
            bar.update(10)
    first, second = lines(caplog)
    assert re.fullmatch(r"mining: 20/100, ends about .*\d\d:\d\d \(0\.7 images/s\)", first)
    assert second.startswith("mining: 40/100, ends about ")


def test_of_unknown_length_no_end_is_told(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress.Bar(None, "reading", "lines") as bar:
        clock.now += 31
        bar.update(62)
    assert lines(caplog) == ["reading: 62 (2.0 lines/s)"]


def test_work_with_lines_of_its_own_is_not_told(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress.Bar(9, "training", "batches", lines=False) as bar:
        clock.now += 100
        bar.update()
    assert lines(caplog) == []


def test_track_passes_on_what_it_counts(clock, caplog):
    caplog.set_level(logging.INFO)

    def slow():
        for item in "abc":
            clock.now += 31
            yield item

    assert list(progress.track(slow(), "letters")) == ["a", "b", "c"]
    assert [line.split(" (")[0] for line in lines(caplog)] == [
        "letters: 1", "letters: 2", "letters: 3"]
    assert list(progress.track([], "letters")) == []


@pytest.mark.parametrize("seconds, form", [
    (0, r"\d\d:\d\d"), (3 * 86400, r"\S+ \d\d \S+ \d\d:\d\d"), (1e30, "never"),
    (float("inf"), "never"), (float("nan"), "never")])
def test_the_end_by_the_clock(seconds, form):
    assert re.fullmatch(form, progress.end_time(seconds))


def test_reports_come_at_most_twice_a_second(keeper, clock):
    with progress.Bar(None, "x", "y") as bar:
        for _ in range(10):
            bar.update()
        clock.now += 0.6
        bar.update()
    assert os.read(keeper, 100) == b".."


def test_a_full_pipe_is_enough_of_reports(keeper, clock):
    writer = progress._reports
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    progress.report()
    assert progress._reports == writer


def test_a_keeper_that_has_gone_is_not_told_again(monkeypatch, clock):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(progress, "_reports", writer)
    monkeypatch.setattr(progress, "_last_report", 0.0)
    progress.report()
    assert progress._reports is None
    clock.now += 1
    progress.report()
    os.close(writer)


def test_waiting_reports_at_once(keeper):
    with progress.waiting():
        assert os.read(keeper, 100) == b"."
