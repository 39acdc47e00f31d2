"""Lines that every user should see: logged, and on standard error where logging was never set up."""

from __future__ import annotations

import logging

import pytest

from interp.core.progress import announce


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
