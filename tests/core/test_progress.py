"""Progress without a terminal: a line a minute with rate and time left, by a clock set by hand; no long silence; and
lines that every user should see, which stand on standard error where logging was never set up."""

from __future__ import annotations

import logging
import time

import pytest

from interp.core import progress as place
from interp.core.progress import Lines, announce, in_words, never_silent, progress, progress_bar, working


@pytest.fixture(autouse=True)
def _lines(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")  # the tests' own, which mutes bars and lines


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(place.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_a_line_a_minute_with_rate_and_time_left(clock, caplog):
    caplog.set_level(logging.INFO, logger="interp")
    with progress_bar("scoring rows", total=1000) as bar:
        assert isinstance(bar, Lines)  # the tests have no terminal
        for _ in range(10):
            clock[0] += 20.0
            bar.update(40)
    assert [record.message for record in caplog.records] == [
        "scoring rows: 120 of 1000 rows, 2 rows per second, 7 min left",  # 880 rows at 2 per second
        "scoring rows: 240 of 1000 rows, 2 rows per second, 6 min left",
        "scoring rows: 360 of 1000 rows, 2 rows per second, 5 min left",
    ]


def test_slow_units_say_seconds_and_what_was_done_before_counts_for_no_rate(clock, caplog):
    caplog.set_level(logging.INFO, logger="interp")
    with progress_bar("training student", total=100, unit="step", done=60) as bar:
        clock[0] += 80.0
        bar.set_postfix({"loss": 1.25})
        bar.update(20)
    assert caplog.messages == ["training student: 80 of 100 steps, 4 s per step, 80 s left, loss 1.25"]


def test_what_takes_less_than_a_minute_says_nothing(clock, caplog):
    caplog.set_level(logging.INFO, logger="interp")
    assert list(progress(range(3), "counting", total=3)) == [0, 1, 2]
    clock[0] += 59.0
    assert caplog.messages == []


def test_the_line_of_an_unknown_total_has_no_time_left(clock):
    with progress_bar("reading", total=None) as bar:
        assert str(bar) == "reading: 0 rows"
        clock[0] += 10.0
        bar.update(5)
        assert str(bar) == "reading: 5 rows, 2 s per row"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(40, "40 s"), (89.4, "89 s"), (90, "2 min"), (5000, "83 min"), (11_100, "3 h 5 min")],
)
def test_lengths_of_time(seconds, words):
    assert in_words(seconds) == words


def test_a_command_is_never_silent(caplog, monkeypatch):
    """Ten seconds without a word, here a tenth of one: what is under way is named, the innermost, and once a minute."""
    monkeypatch.setattr(place, "SILENCE", 0.1)
    caplog.set_level(logging.INFO, logger="interp")
    with never_silent(), working("stage outcome"), working("loading folder"):
        time.sleep(0.5)
    assert caplog.messages == ["loading folder: 0 s so far"]
    caplog.clear()
    with never_silent(), working("stage outcome"):
        for _ in range(8):
            logging.getLogger("interp.report").info("said")
            time.sleep(0.05)
    assert set(caplog.messages) == {"said"}
    caplog.clear()
    with never_silent(), progress_bar("scoring", total=8) as bar:
        bar.update(2)
        time.sleep(0.3)
    assert [message.partition(",")[0] for message in caplog.messages] == ["scoring: 2 of 8 rows"]


def test_workers_of_a_sweep_leave_the_counting_to_the_one_who_started_them(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert not isinstance(progress_bar("cells", total=2), Lines)


def test_a_loop_that_fails_is_no_longer_under_way():
    with pytest.raises(ValueError, match="broken"), working("stage"), progress_bar("rows", total=2):
        raise ValueError("broken")
    assert place._open == []


@pytest.fixture
def log():
    """A logger as a fresh Python has it: no handler anywhere, the level of warnings. Pytest adds its own to others."""
    return logging.Logger("announced", logging.WARNING)


def test_without_logging_it_stands_on_standard_error(log, capsys):
    announce(log, "%s: apart by %.1e", "gpt2", 2e-6)
    assert capsys.readouterr() == ("", "gpt2: apart by 2.0e-06\n")


@pytest.mark.parametrize(("level", "expected"), [(logging.INFO, [("INFO", "3")]), (logging.WARNING, [])])
def test_with_logging_it_goes_where_the_user_has_sent_it(capsys, level, expected):
    seen, log, handler = [], logging.Logger("announced", level), logging.Handler()
    handler.emit = lambda record: seen.append((record.levelname, record.getMessage()))
    log.addHandler(handler)
    announce(log, "%d", 3)
    assert seen == expected
    assert capsys.readouterr() == ("", "")


def test_who_has_switched_it_off_sees_nothing(log, capsys):
    log.setLevel(logging.ERROR)
    announce(log, "nothing")
    assert capsys.readouterr() == ("", "")
