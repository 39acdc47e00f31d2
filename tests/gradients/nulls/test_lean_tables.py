"""Directions beside one another: numbers by hand from planted scores, and places adding up on a real network."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.directions import trait_gradient
from interp.gradients.representations import representation_gradient
from interp.gradients.scores.plan import RoutePlan
from interp.gradients.scores.scoring import Scores, score
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.traits import make_trait
from interp.stats.tests import t_interval
from tests.tiny import build_tokenizer

TRAIT = make_trait("owl", ("cat", "dog"), questions=("which animal is best?", "name"), category="animal")
HOOK = "blocks.1.hook_resid_mid"
LABELS = ("own", "other", "third")


def planted(values, prompts):
    """Scores of one row per prompt along three directions, as they would come from `score`."""
    rows = Prompts.from_pairs([(prompt, "3, 4") for prompt in prompts], label="rows").encode(
        build_tokenizer()
    )
    totals = torch.tensor(values, dtype=torch.float32)
    ones = torch.ones(len(totals))
    plan = RoutePlan("direction-first", "planted", 1.0, "none")
    return Scores("rows at base", LABELS, ("example",), plan, totals, ones, ones.long(), (), rows)


@pytest.fixture
def pair():
    ours = planted([[1, 2, 0], [2, 0, 0], [6, 4, 1], [5, 5, 5]], ["name", "list", "tree", "animal"])
    theirs = planted([[1, 1, 0], [0, 0, 0], [0, 0, 0]], ["tree", "list", "name"])  # no answer to "animal"
    return ours, theirs


def test_the_whole_by_hand(pair):
    ours, theirs = pair
    found = ours.leans({"own": ["other", "third"], "third": []}, neutral=theirs).frame
    lean = np.array([1.0, 2.0, 5.0])  # name, list, tree
    d = lean / lean.std(ddof=1)
    line = found.iloc[0]
    assert (line["direction"], line["place"], line["score"]) == ("own", "whole", pytest.approx(lean.mean()))
    assert line["d"] == pytest.approx(d.mean())
    assert (line["low"], line["high"]) == pytest.approx(t_interval(d))
    assert line["p"] == 1 / 8  # of eight sign patterns, none but the observed reaches so far
    others = [np.array(values) for values in ([2.0, 0.0, 3.0], [0.0, 0.0, 1.0])]
    assert d.mean() > max(each.mean() / each.std(ddof=1) for each in others)
    assert (line["rank"], line["of"]) == (1, 3)
    assert found.iloc[1][["direction", "rank", "of"]].tolist() == ["third", 1, 1]
    assert ours.leans({"third": ["own", "other"]}, neutral=theirs).frame["rank"].tolist() == [3]


def test_without_neutral_rows_there_is_no_p(pair):
    found = pair[0].leans({"own": []}).frame
    assert found["score"].tolist() == [3.5]
    assert found["p"].isna().all()


def test_by_row_in_standard_deviations(pair):
    ours, theirs = pair
    found = ours.leans({"own": ["other"]}, neutral=theirs, place="row").frame
    assert found["place"].tolist() == [0, 1, 2]
    lean = np.array([1.0, 2.0, 5.0])
    assert found["d"].tolist() == pytest.approx(lean / lean.std(ddof=1))
    assert found["rank"].tolist() == [2, 1, 1]  # beside [2, 0, 3] in its own standard deviations


def test_what_was_not_scored_is_refused(pair):
    with pytest.raises(
        InputError, match=r"direction 'owm' is unknown; nearest: own; pass one that was scored"
    ):
        pair[0].leans({"owm": []})
    with pytest.raises(InputError, match=r"direction 'thrid' is unknown"):
        pair[0].leans({"own": ["thrid"]})
    with pytest.raises(
        InputError, match=r"scores by example tell no layer of a row apart; score with by=\['exam"
    ):
        pair[0].leans({"own": []}, place="layer")


@pytest.fixture(scope="module")
def scored():
    from tests.tiny import build_model

    own = load_model(build_model("llama", seed=0), tokenizer=build_tokenizer(), name="llama", check=False)
    directions = [
        representation_gradient(own, TRAIT.prompts(), HOOK, torch.linspace(-1, 1, 32)),
        trait_gradient(own, TRAIT),
    ]
    asked = [("continue the list", "3, 4, 5"), ("give five numbers", "1, 2"), ("name", "7, 8, 9")]
    sets = [Prompts.from_pairs(asked), Prompts.from_pairs([(prompt, "9, 9") for prompt, _ in asked])]
    return own, directions, sets


@pytest.mark.parametrize(("place", "key"), [("layer", "module"), ("module", "module"), ("token", "token")])
def test_places_add_up_to_the_whole(scored, place, key):
    own, directions, sets = scored
    ours, theirs = (score(own, rows, directions, by=["example", key]) for rows in sets)
    nulls = {directions[0].label: [directions[1].label], directions[1].label: []}
    found, whole = (ours.leans(nulls, neutral=theirs, place=each) for each in (place, "whole"))
    sums: pd.Series = found.frame.groupby("direction")["score"].sum()
    assert sums.to_dict() == pytest.approx(whole.frame.set_index("direction")["score"].to_dict(), rel=1e-4)
    places = found.frame["place"].unique().tolist()
    if place == "layer":
        assert places == ["none", "0", "1"]
    if place == "token":
        assert sorted(places) == [0, 1, 2, 3, 4, 5]  # "3 , 4 , 5" and its end
    for result in (found, whole):
        assert result.unit == "sd per prompt"
        assert {trace.name for trace in result.figure().data if trace.name} == set(nulls)


def test_it_reads_as_a_line(pair):
    ours, theirs = pair
    found = ours.leans({"own": ["other"]}, neutral=theirs, place="row")
    assert repr(found) == "rows at base: lean by row: 3 rows x 6 columns, sd per prompt"
    assert "less rows at the same prompts; units are prompts of one lineage" in found.notes[0]
    assert len(found.figure().data) == 1
