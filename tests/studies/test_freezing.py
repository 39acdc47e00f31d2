"""The ledger keeps what was frozen, whether or not the results are still there."""

from __future__ import annotations

import dataclasses
import json

import pytest

from interp.core import provenance
from interp.core.runs import InputError
from interp.hypotheses.claims import Hypothesis
from interp.studies.freezing import freeze, read_ledger, stale

CLAIM = Hypothesis("grows", "it grows", "after − before", "nothing", 0.0, 0.01, "difference", "cm")
COMMIT = {"commit": "abc", "dirty": False, "date": "2026-01-02"}


def measure(given):
    return given + 1


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    monkeypatch.setattr("interp.studies.freezing.origin", lambda: COMMIT)

    def enter(claims=(CLAIM,), **changes):
        given = {"measure": measure, "organism": "toy/owl", "seeds": range(3), "data": {"rows": 8}} | changes
        claims = {each.name: each for each in claims} if isinstance(claims, tuple) else claims
        return freeze(tmp_path / "growth.json", claims, **given)

    return enter, tmp_path / "ledger.json"


def test_an_entry_holds_every_key_with_commit_and_day(frozen):
    enter, ledger = frozen
    kept = enter()
    (entry,) = read_ledger(ledger)
    assert entry == {"analysis": "growth", "organism": "toy/owl", "seeds": [0, 1, 2], **kept}
    assert kept["claims"] == {"grows": CLAIM.key}
    assert {name: kept[name] for name in COMMIT} == COMMIT
    assert kept["judged"] == "each claim at its own level"
    assert len({kept["code"], kept["data"], CLAIM.key}) == 3


def test_the_same_again_adds_nothing_and_other_data_or_seeds_add_a_line(frozen):
    enter, ledger = frozen
    enter()
    enter()
    assert len(read_ledger(ledger)) == 1
    enter(data={"rows": 16})
    enter(data={"rows": 16}, seeds=range(8, 20))
    enter(data={"rows": 16}, seeds=range(8, 20), organism="toy/eagle")
    entries = read_ledger(ledger)
    assert [len(each["seeds"]) for each in entries] == [3, 3, 12, 12]
    assert len({each["data"] for each in entries}) == 2


def test_an_edited_claim_is_refused_though_its_results_are_gone(frozen):
    enter, ledger = frozen
    enter()
    before = ledger.read_text()
    edited = dataclasses.replace(CLAIM, margin=0.1)
    with pytest.raises(InputError) as error:
        enter((edited,))
    assert str(error.value) == (
        f"'grows' of growth was frozen on 2026-01-02 under claim {CLAIM.key} and is now {edited.key}: a claim edited "
        "after its data; restore its wording, give the new claim a new name, or pass --refreeze REASON, which the "
        "ledger keeps"
    )
    assert ledger.read_text() == before


def test_a_reason_freezes_anew_and_stays(frozen):
    enter, ledger = frozen
    enter()
    edited = dataclasses.replace(CLAIM, margin=0.1)
    enter((edited,), refreeze="the margin was written in the wrong unit")
    first, second = read_ledger(ledger)
    assert (first["claims"], second["claims"]) == ({"grows": CLAIM.key}, {"grows": edited.key})
    assert second["reason"] == "the margin was written in the wrong unit"
    enter((edited,))  # what is frozen last is what counts
    with pytest.raises(InputError, match=f"under claim {edited.key} and is now {CLAIM.key}"):
        enter((CLAIM,))


def test_a_new_name_is_free_and_another_rule_is_refused(frozen):
    enter, ledger = frozen
    enter()
    enter((CLAIM, dataclasses.replace(CLAIM, name="grows-more", margin=0.1)))
    assert len(read_ledger(ledger)) == 2
    with pytest.raises(InputError) as error:
        enter(judged="Holm over its claims at 0.01")
    assert str(error.value) == (
        "'grows' of growth was to be judged by 'each claim at its own level' and is now judged by 'Holm over its "
        "claims at 0.01'; restore the rule, or pass --refreeze REASON, which the ledger keeps"
    )


def test_a_protocol_in_words_has_a_key_that_follows_its_words(frozen):
    enter, _ = frozen
    one = enter({"protocol": "the lower end is at least 0.8"})["claims"]["protocol"]
    assert len(one) == 16
    with pytest.raises(InputError, match="'protocol' of growth was frozen on"):
        enter({"protocol": "the lower end is at least 0.7"})


def test_results_of_other_code_are_marked_with_what_runs_them_again(frozen):
    enter, _ = frozen
    now = enter()["code"]
    assert stale({"code": now}, measure) is None
    assert stale({"code": "0" * 16, "command": "python -m analyses.growth"}, measure) == (
        "measured by other code (key 0000000000000000); run again with `python -m analyses.growth`"
    )
    assert stale({}, measure) == "measured by code that had no key yet; run again with `its command`"


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch):
    found = provenance.origin()
    assert set(found) == {"commit", "dirty", "date"}
    monkeypatch.setattr(provenance, "git_state", lambda folder=None: None)
    found = provenance.origin()
    assert (found["commit"], found["dirty"]) == ("unknown", None)
    assert json.dumps(found)
