"""Lines that every user should see: logged, and on standard error where logging was never set up."""

from __future__ import annotations

import logging

import pytest

from interp.core.progress import announce


@pytest.fixture
def log(monkeypatch):
    """A logger as a fresh Python has it: no handler anywhere, the level of warnings."""
    own = logging.getLogger("announced")
    monkeypatch.setattr(own, "propagate", False)
    monkeypatch.setattr(own.manager, "disable", 0)
    own.setLevel(logging.WARNING)
    yield own
    own.handlers.clear()


def test_without_logging_it_stands_on_standard_error(log, capsys):
    announce(log, "%s: apart by %.1e", "gpt2", 2e-6)
    assert capsys.readouterr() == ("", "gpt2: apart by 2.0e-06\n")


def test_with_logging_it_goes_where_the_user_has_sent_it(log, capsys):
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append((record.levelname, record.getMessage()))
    log.addHandler(handler)
    announce(log, "not at this level")
    log.setLevel(logging.INFO)
    announce(log, "%d", 3)
    assert seen == [("INFO", "3")]
    assert capsys.readouterr() == ("", "")


def test_who_has_switched_it_off_sees_nothing(log, capsys):
    log.setLevel(logging.ERROR)
    announce(log, "nothing")
    assert capsys.readouterr() == ("", "")
