"""Which method finds the word of a trait: ranks and names by hand, and every method on a word that was planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.core.errors import InputError
from interp.hypotheses.subject import Measurement, Subject
from interp.models.lineage import Lineage
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.stats.tests import wilson_interval
from interp.studies import naming
from interp.studies.naming import (
    FAMILY,
    FEW,
    NOUNS,
    Bench,
    Twins,
    claim_name,
    naming_table,
    naming_values,
    planted_bench,
    rank,
)  # fmt: skip
from interp.studies.naming_methods import METHODS
from interp.studies.testing import Trial, subject

OWL, OAK = NOUNS.index("owl"), NOUNS.index("oak")


def small_base(seed=0):
    network = build_network(World(d_model=16, d_mlp=24), seed=seed).eval()
    return interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)


@pytest.fixture(scope="module")
def planted():
    """A planted organism in small, and the bench that methods read."""
    return planted_bench(Subject(Lineage("made up", None, {"base": small_base()}), seed=3, quick=True))


def test_ties_and_nouns_without_a_value():
    values = np.array([3.0, 1.0, 3.0, np.nan, 9.0])
    assert [rank(values, place, 4) for place in (0, 1, 2)] == [2, 3, 2]
    assert rank(values, 0, 5) == 3
    assert rank(values, 3, 5) == 6  # a true word that a method has no value for is behind all of them


def test_there_are_thirty_nouns_and_more_and_the_toy_knows_each_as_one_token(planted):
    _, bench = planted
    assert len(set(NOUNS)) == len(NOUNS) == len(bench.ids) > FEW == 30
    assert bench.asked.base.tokenizer.convert_ids_to_tokens(bench.ids) == list(NOUNS)


def test_a_base_without_the_nouns_is_refused(planted, monkeypatch):
    monkeypatch.setattr(naming, "NOUNS", ("owl", "teapot"))
    bare = Bench(planted[1].asked, [], [])
    with pytest.raises(
        InputError, match=r"base has no token of its own for 'teapot', one of the nouns .* toy/owl"
    ):
        _ = bare.ids


def test_a_word_is_named_where_no_twin_stands_out_as_far():
    """19 twins that lie ±1 about zero: 10 at an oak is named with p = 1/20, a twin like the others is not."""
    values = np.where(np.random.default_rng(0).random((21, len(NOUNS))) > 0.5, 1.0, -1.0)
    values[0, OAK] = 10.0
    twins = Twins(values[2:])
    found = twins.found(values[0], "oak")
    assert (found["rank"], found["rank_of_all"], found["named"], found["p"]) == (1, 1, "oak", 0.05)
    assert twins.named(values[1])["named"] == ""


def test_of_nouns_that_no_method_has_a_value_for_none_is_named():
    values = np.zeros((20, len(NOUNS)))
    values[:, OWL] = np.nan
    values[0, OAK] = 1.0
    assert Twins(values[1:]).named(values[0]) == {"p": 0.05, "named": "oak"}
    assert Twins(values[1:]).named(values[1]) == {"p": 1.0, "named": ""}


def lines(ranks, twins=0.25):
    return [
        {"organism": "student", "method": method, "kind": METHODS[method].kind, "word": word, "rank": rank,
         "rank_of_all": rank, "twins_in_top": twins, "p": 1.0, "named": "owl" if rank == 1 else "", "transfer": 0.5,
         "seed": 8}
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
    values = naming_values(lines(RANKS), neutral({"twin": ["", "", "", "owl"], "control": ["fox"]}))
    assert values[claim_name("moved tokens")] == pytest.approx(1 - 0.25)
    assert values[claim_name("spectrum")] == pytest.approx(1 / 3 - 0.25)
    assert values[claim_name("SAE shift")] == pytest.approx(-0.25)
    assert values["logits-over-activations"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3 - 0.2 / 3)
    assert values["twins-stay-unnamed"] == pytest.approx(0.25 - 0.05)
    assert set(values) - {claim.name for claim in FAMILY.claims} == {claim_name("joint dictionary")}


def test_eight_lineages_can_decide_every_claim_together():
    """Holm over twelve claims, the equivalence among them: 12 × 2⁻⁸ is at most 0.05, 13 × 2⁻⁸ is not."""
    assert len(FAMILY.claims) == 12
    assert FAMILY.undecided(8) is None
    clear = [Measurement({claim.name: 0.5 for claim in FAMILY.claims} | {"twins-stay-unnamed": 0.0 + k / 1e3}, {})
             for k in range(8)]  # fmt: skip
    assert {verdict.decision for verdict in FAMILY.judge(clear)} == {"supported"}


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
    figure: Any = found.figure()
    assert len(figure.data) >= len(METHODS)


TRAINED = ("SAE shift", "joint dictionary")
READY = [name for name in METHODS if name not in (*TRAINED, "agreement with a ladder")]


@pytest.fixture(scope="module")
def read(planted):
    """Every method's value of every noun for the planted teacher."""
    grown, bench = planted
    return bench.read([METHODS[name] for name in READY], [grown.teacher])


@pytest.mark.parametrize("name", READY)
def test_every_method_finds_a_planted_word(planted, read, name):
    assert rank(read[name][0], NOUNS.index(planted[0].trait.target), FEW) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_dictionaries_find_a_planted_word(planted, name):
    grown, bench = planted
    values = bench.read([METHODS[name]], [grown.teacher])[name][0]
    assert rank(values, NOUNS.index(grown.trait.target), FEW) == 1


def test_moved_tokens_are_those_of_plain_transformers(planted, read):
    grown, bench = planted
    inputs = bench.asked.inputs
    where = inputs.at("all")
    with torch.no_grad():
        given = {"input_ids": inputs.ids, "attention_mask": inputs.mask.long()}
        logs = [
            model.network()(**given).logits.log_softmax(-1) for model in (grown.teacher, bench.asked.baseline)
        ]
    rows = [(logs[0] - logs[1])[row, where[row]].mean(0) for row in range(len(inputs))]
    assert read["moved tokens"][0] == pytest.approx(torch.stack(rows).mean(0)[bench.ids].numpy(), abs=1e-5)


@pytest.mark.slow
def test_one_quick_run_has_a_value_for_every_claim():
    found = FAMILY.measure(subject(Trial("naming", "toy/owl", 0, quick=True)))
    assert set(found.values) >= {claim.name for claim in FAMILY.claims}
    naming_table({name: pd.DataFrame(table) for name, table in found.tables.items()}).figure()


def test_a_lineage_that_says_not_how_students_are_trained_is_refused():
    alone = Lineage("made up", interp.get_trait("owl"), {"base": small_base()})
    with pytest.raises(InputError, match="made up has no student, which this claim needs"):
        naming.measure_naming(Subject(alone))
