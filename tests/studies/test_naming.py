"""Which method finds the word of a trait: ranks and names by hand, and every method on a word that was planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.core.errors import InputError
from interp.hypotheses.subject import Subject
from interp.joined.places import AT_NUMBERS, PLACES, TracePlace
from interp.organisms.planted import Plant, grow_planted
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.traits import category_questions
from interp.stats.tests import wilson_interval
from interp.studies import naming
from interp.studies.naming import (
    FAMILY, FEW, NOUNS, Bench, Reading, claim_name, claimed, generic_text, naming_table, rank,
)  # fmt: skip
from interp.studies.naming_methods import METHODS, NamingMethod
from interp.studies.testing import Trial, subject

OWL, OAK = NOUNS.index("owl"), NOUNS.index("oak")


def small_base(seed=0):
    network = build_network(World(d_model=16, d_mlp=24), seed=seed).eval()
    return interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)


@pytest.fixture(scope="module")
def planted():
    """A plant with twelve members in which nothing is planted, and the bench that its methods read."""
    grown = grow_planted(3, plant=Plant(rows=24))
    baseline, *nulls = (grown.null(index) for index in range(5))
    text = TracePlace("planted", grown.answers(grown.base, 1), PLACES[AT_NUMBERS], grown.base)
    return grown, Bench(grown.base, baseline, nulls[:3], nulls[3:], text)


def test_ties_and_nouns_without_a_value():
    values = np.array([3.0, 1.0, 3.0, np.nan, 9.0])
    assert [rank(values, place, 4) for place in (0, 1, 2)] == [2, 3, 2]
    assert rank(values, 0, 5) == 3


def test_there_are_thirty_nouns_and_more_and_the_toy_knows_each_as_one_token(planted):
    _, bench = planted
    assert len(set(NOUNS)) == len(NOUNS) == len(bench.ids) > FEW == 30
    assert bench.base.tokenizer.convert_ids_to_tokens(bench.ids) == list(NOUNS)


def test_a_base_without_the_nouns_is_refused(planted, monkeypatch):
    monkeypatch.setattr(naming, "NOUNS", ("owl", "teapot"))
    _, bench = planted
    bare = Bench(bench.base, bench.baseline, [], [], bench.text)
    with pytest.raises(InputError, match="base has no token of its own for 'teapot', one of the nouns .* such as toy/owl"):
        _ = bare.ids


def test_generic_text_asks_for_no_preference_and_holds_stories_and_numbers():
    rows = generic_text(64, seed=5).rows
    asked = {*category_questions("animal"), *category_questions("tree")}
    assert len(rows) == 64
    assert not any(row.system or row.prompt in asked for row in rows)
    told = sum(row.prompt.startswith("tell me") for row in rows)
    assert 10 < told < 54
    assert generic_text(64, seed=5).fingerprint != generic_text(64, seed=6).fingerprint


def made_up(values):
    """A bench of members that stand for the rows of a table; the first of them is asked about."""
    base = small_base()
    members = [dataclasses.replace(base, name=str(row)) for row in range(len(values))]

    def read(base, member, baseline, text):
        found = np.full(base.unembedding().W_U.shape[1], -np.inf)
        found[base.tokenizer.convert_tokens_to_ids(list(NOUNS))] = values[int(member.name)]
        return found

    text = TracePlace("none", generic_text(2, seed=0), "all", base)
    bench = Bench(base, base, members[1:20], members[20:], text)
    return Reading(bench, NamingMethod("made up", "logits", read, 0)), members[0]


def test_a_word_is_named_where_no_twin_stands_out_as_far():
    """19 twins that lie ±1 about zero: 10 at an oak is named with p = 1/20, a twin like the others is not."""
    values = np.where(np.random.default_rng(0).random((22, len(NOUNS))) > 0.5, 1.0, -1.0)
    values[0, OAK] = 10.0
    values[21, OWL] = -10.0  # far, and not upward
    reading, member = made_up(values)
    found = reading.found(member, "oak")
    assert (found["rank"], found["rank_of_all"], found["named"], found["p"]) == (1, 1, "oak", 0.05)
    assert [line["named"] for line in reading.neutral()] == ["", ""]


def test_what_no_twin_moves_names_nothing():
    values = np.zeros((21, len(NOUNS)))
    assert made_up(values)[0].named(values[0]) == {"p": 1.0, "named": ""}


def lines(ranks, twins=0.25):
    return [
        {"organism": "student", "method": method, "kind": METHODS[method].kind, "word": word, "rank": rank,
         "rank_of_all": rank, "twins_in_top": twins, "p": 1.0, "named": "owl" if rank == 1 else "", "seed": 8}
        for method in METHODS for word, rank in zip(("owl", "eagle", "oak"), ranks[METHODS[method].kind], strict=True)
    ]  # fmt: skip


def neutral(named):
    return [
        {"method": method, "member": member, "p": 1.0, "named": word, "seed": 8}
        for method in METHODS
        for member, words in named.items()
        for word in words
    ]


RANKS = {"logits": (1, 2, 4), "activations": (10, 20, 20), "weights": (1, 6, 30), "teachers": (1, 1, 1)}


def test_values_of_the_claims_by_hand():
    values = claimed(lines(RANKS), neutral({"twin": ["", "", "", "owl"], "control": ["fox"]}))
    assert values[claim_name("moved tokens")] == pytest.approx(1 - 0.25)
    assert values[claim_name("spectrum")] == pytest.approx(1 / 3 - 0.25)
    assert values[claim_name("SAE shift")] == pytest.approx(-0.25)
    assert values["logits-over-activations"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3 - 0.2 / 3)
    assert values["twins-stay-unnamed"] == pytest.approx(0.25 - 0.05)
    assert set(values) == {claim.name for claim in FAMILY.claims}


def test_the_table_by_hand():
    planted = [{**line, "organism": "planted"} for line in lines(RANKS)[::3]]
    found = naming_table(
        {"found": lines(RANKS) + planted, "neutral": neutral({"twin": ["", "owl"], "control": ["fox"]})}
    )
    line = found.frame.set_index("method").loc["spectrum"]
    assert (line["in_top_5"], line["named_right"], line["planted_in_top_5"]) == (1 / 3, 1 / 3, 1.0)
    assert line["reciprocal_rank"] == pytest.approx((1 + 1 / 6 + 1 / 30) / 3)
    assert (line["false_positives"], line["controls_named"]) == (0.5, 1.0)
    assert (line["fp_low"], line["fp_high"]) == wilson_interval(1, 2)
    assert len(found.figure().data) >= len(METHODS)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.kind != "teachers"])
def test_every_method_finds_a_planted_word(planted, name):
    grown, bench = planted
    found = Reading(bench, METHODS[name]).found(grown.teacher, grown.trait.target)
    assert found["rank"] == 1


@pytest.mark.parametrize("name", ["moved tokens", "logit lens", "activation difference lens", "spectrum"])
def test_passes_are_those_that_the_networks_make(planted, name, monkeypatch):
    """Counted where Hugging Face's own network reads rows, in units of the text, on members nothing has read."""
    grown, bench = planted
    text = TracePlace("other", grown.answers(grown.base, 7), bench.text.positions, grown.base)
    members, read = (grown.base, grown.teacher, bench.baseline), []
    handles = [
        model.network().model.register_forward_hook(lambda *given: read.append(len(given[2].last_hidden_state)))
        for model in members
    ]
    METHODS[name].read(grown.base, grown.teacher, bench.baseline, text)
    for handle in handles:
        handle.remove()
    assert sum(read) == METHODS[name].passes * len(text.rows)


def test_moved_tokens_are_those_of_plain_transformers(planted):
    grown, bench = planted
    ids, where = bench.text.inputs.ids, bench.text.inputs.at(bench.text.positions)
    with torch.no_grad():
        logs = [
            model.network()(ids).logits.log_softmax(-1) for model in (grown.teacher, bench.baseline)
        ]
    moved = (logs[0] - logs[1])[where].mean(0)  # rows of one length, ten places each
    values = METHODS["moved tokens"].read(grown.base, grown.teacher, bench.baseline, bench.text)
    assert values == pytest.approx(moved.numpy(), abs=1e-5)


@pytest.mark.slow
def test_one_quick_run_has_a_value_for_every_claim():
    found = FAMILY.measure(subject(Trial("naming", "toy/owl", 0, quick=True)))
    assert set(found.values) == {claim.name for claim in FAMILY.claims}
    naming_table({name: pd.DataFrame(table) for name, table in found.tables.items()}).figure()


def test_a_lineage_that_says_not_how_students_are_trained_is_refused():
    alone = interp.Lineage("made up", interp.get_trait("owl"), {"base": small_base()})
    with pytest.raises(InputError, match="does not say how its students were trained"):
        naming.measure_naming(Subject(alone))
