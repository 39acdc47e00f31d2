"""Scores, defences and unnamed words: committed verdicts follow from committed values, text from their numbers."""

import pandas as pd
import pytest

import interp
from analyses import retraining_page as page
from analyses.results_page import kept
from analyses.toy_page import tables
from interp.hypotheses.subject import Measurement
from interp.studies.registry import family
from tests.test_readme import follows


@pytest.mark.parametrize(
    ("name", "first"), [("judged_scores", 8), ("eagle_judged_scores", 10), ("defences", 8), ("naming", 8)]
)
def test_verdicts_follow_from_the_values_of_eight_lineages(name, first):
    found = kept(name)
    tested = family(name.removeprefix("eagle_").replace("_", "-"), organism="folder")
    assert found["claims"] == {claim.name: claim.key for claim in tested.claims}
    assert [run["seed"] for run in found["values"]] == list(range(first, first + 8))
    again = tested.judge([Measurement(run, {}) for run in found["values"]])
    for verdict, old in zip(again, found["verdicts"], strict=True):
        follows(verdict, old)


def test_what_is_said_finds_the_word_twice_as_often_as_activations_and_features_do():
    frame = interp.studies.naming_table(tables(kept("naming"))).frame.set_index("method")
    ranked = frame["in_top_5"].sort_values(ascending=False)
    assert list(ranked.index[:3]) == ["amplified update", "contrastive decoding", "spectrum"]
    inside = ["activation difference lens", "Jacobian lens", "SAE shift"]
    assert frame.loc[inside, "in_top_5"].mean() < 0.5 * ranked.iloc[:2].mean()
    assert set(ranked.index[-3:]) == set(inside)


def test_claims_on_ways_are_counted_and_those_about_all_are_told(monkeypatch):
    verdicts = [
        {"name": "a-finds-the-word", "decision": "supported"},
        {"name": "b-finds-the-word", "decision": "inconclusive"},
        {"name": "c-finds-the-word", "decision": "supported"},
        {"name": "twins-stay-unnamed", "decision": "refuted"},
    ]
    monkeypatch.setattr(page, "kept", lambda name: {"verdicts": verdicts})
    told = page._ways_decided().split("<br>")
    assert told[0] == "supported: 2 of the 3 ways with a claim find it more often than in neutral students"
    assert told[1].startswith("inconclusive: 1 of the 3 ways")
    assert told[2].startswith("refuted: neutral students are given a word no more often than")


def test_the_table_counts_the_committed_readings():
    found = pd.DataFrame(kept("naming")["tables"]["found"]).query("organism == 'student'")
    assert found.groupby("method").size().eq(24).all()  # three words of eight lineages
    first = found.query("method == 'amplified update'")["rank"].le(5).mean()
    assert f"amplified update {100 * first:.0f} %" in page.named()
