"""Shifts of features computed by hand, a plant in a real network, what is direct, and what is refused."""

import copy
import math

import numpy as np
import pytest
import torch

from interp.activations.shifts import shift
from interp.core.runs import InputError
from interp.features.shift import ERROR, feature_shift
from interp.models.language import load_model
from interp.models.lineage import open_lineage
from interp.prompts.text import Prompts
from interp.prompts.traits import make_trait
from interp.stats.many import halves
from tests.features.planting import HOOK, TableModel, by_hand, numbered
from tests.tiny import build_model, build_tokenizer

ROWS, TOKENS = 24, 2
INPUTS = numbered(ROWS, TOKENS)
OWL = make_trait("owl", ["cat", "dog"])


def table(d=3, *, seed=0):
    """Positive activations for every token."""
    rng = torch.Generator().manual_seed(seed)
    return 1 + torch.rand(ROWS * (TOKENS + 1) + 1, d, generator=rng)


def organism(plant, *, h=None, directions=None, notes=()):
    """Start, member and dictionary; the plant [token d_in] or [d_in] is all that sets the two apart."""
    h = table() if h is None else h
    start = TableModel(h)
    member = TableModel(h + torch.as_tensor(plant), name="teacher", start=start)
    directions = torch.eye(h.shape[1]) if directions is None else directions
    return member, by_hand(directions, start, notes=notes)


def test_a_constant_plant_by_hand():
    member, dictionary = organism([2.0, 0.0, -0.5], notes=("read with care",))
    result = feature_shift(dictionary, member, INPUTS)
    frame = result.frame
    assert frame["feature"].tolist() == [0, 1, 2, ERROR]
    assert frame["delta"].to_numpy() == pytest.approx([2, 0, -0.5, 0], abs=1e-6)
    assert frame["low"].to_numpy() == pytest.approx([2, 0, -0.5, 0], abs=1e-6)
    assert frame["high"].to_numpy() == pytest.approx([2, 0, -0.5, 0], abs=1e-6)
    assert frame["p"].tolist() == [
        2**-11,
        1,
        2**-11,
        1,
    ]  # all 2^12 patterns of 12 rows, two of which reach the sum
    assert frame["q"].tolist()[:3] == pytest.approx([1.5 * 2**-11, 1, 1.5 * 2**-11])
    assert frame["live"].all()
    assert result.reported == result.direct == (0, 2)
    assert math.isnan(result.error["q"])
    assert result.notes == (
        "24 rows with 24 distinct prompts at predicting answer.numbers, 12 of them to select (all 2048 sign patterns) "
        "and 12 to estimate",
        "error node: 0.0% of the mean shift's energy; its Δ is of its norm",
        "p-values are over rows of this one training; other trainings are other replicates",
        "rows were not checked for the trait: pass trait=",
        "read with care",
    )


def test_another_member_of_the_start_is_taken_off():
    start = TableModel(table())
    student = TableModel(start.table + torch.tensor([2.0, 0.0, -0.5]), name="student", start=start)
    neutral = TableModel(start.table + torch.tensor([1.5, 0.0, 0.5]), name="neutral", start=start)
    result = feature_shift(by_hand(torch.eye(3), start), student, INPUTS, minus=neutral)
    assert result.frame["delta"].to_numpy() == pytest.approx([0.5, 0, -1, 0], abs=1e-6)
    assert result.reported == (2, 0)
    assert repr(result).startswith("FeatureShift(student \N{MINUS SIGN} neutral, features of by hand")
    stranger = TableModel(neutral.table, name="stranger", start=TableModel(table(seed=1), name="other"))
    with pytest.raises(
        InputError, match=r"stranger started from other \(\w+\) and student from base .* of the same start"
    ):
        feature_shift(by_hand(torch.eye(3), start), student, INPUTS, minus=stranger)
    with pytest.raises(
        InputError, match=r"the shift student − base says already what .* minus=neutral came beside"
    ):
        feature_shift(by_hand(torch.eye(3), start), shift(student, INPUTS, hooks=[HOOK]), minus=neutral)


def test_rates_and_dead_features():
    h = table()
    h[:, 0] = -1.0  # silent in the start, wakes at every second number of the member
    h[:, 2] = -9.0
    plant = torch.zeros_like(h)
    plant[INPUTS.ids[:, 1], 0] = 1.5
    member, dictionary = organism(plant, h=h)
    frame = feature_shift(dictionary, member, INPUTS).frame
    assert frame.loc[0, ["delta", "delta_rate", "base_mean", "base_rate"]].tolist() == [0.25, 0.5, 0, 0]
    assert frame["base_rate"].tolist()[1] == 1
    assert frame["live"].tolist() == [True, True, False, True]
    assert frame["reported"].tolist() == [True, False, False, False]
    assert frame.loc[2, ["p", "q", "p_max", "low", "high"]].isna().all()
    assert frame.loc[1, "base_mean"] == pytest.approx(1.5, abs=0.2)


def test_what_the_features_do_not_explain_is_the_error_node():
    directions = torch.eye(3)[:2]
    member, dictionary = organism([0.0, 0.3, 0.4], directions=directions)
    result = feature_shift(dictionary, member, INPUTS)
    assert result.reported == (1,)
    assert result.error["feature"] == ERROR
    assert result.error["delta"] == pytest.approx(0.4)  # the error is the third coordinate, which is positive
    assert result.error["low"] == pytest.approx(0.4)
    assert result.error["p"] == 2**-11
    assert not result.error["reported"]
    assert "error node: 64.0% of the mean shift's energy" in result.notes[1]


def test_what_a_plant_drags_along_is_moved_but_not_direct():
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    member, dictionary = organism([1.0, 0.0, 0.0], directions=directions)
    result = feature_shift(dictionary, member, INPUTS)
    assert result.frame["delta"].tolist()[:2] == pytest.approx([1, 0.6])
    assert result.reported == (0, 1)
    assert result.direct == (0,)
    assert result.frame["p_beyond"].tolist()[:2] == [2**-11, 1]
    both, dictionary = organism([1.6, 0.8, 0.0], directions=directions)
    assert set(feature_shift(dictionary, both, INPUTS).direct) == {0, 1}


def test_a_direction_between_two_plants_is_taken_first_and_given_back():
    between = torch.tensor([0.65, 0.65, 0.0])
    between[2] = math.sqrt(1 - 2 * 0.65**2)
    directions = torch.stack([torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), between])
    rng = torch.Generator().manual_seed(1)
    plant = torch.nn.functional.pad(torch.rand(len(table()), 2, generator=rng) + 0.5, (0, 1))
    assert float(plant.mean(0) @ between) > float(plant.mean(0).max())
    member, dictionary = organism(plant, directions=directions)
    result = feature_shift(dictionary, member, INPUTS)
    assert set(result.reported) == {0, 1, 2}
    assert set(result.direct) == {0, 1}
    assert result.frame.loc[2, "p_beyond"] == 1


def test_arithmetic_is_not_a_move():
    rng = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=rng))[0]  # orthonormal up to rounding
    member, dictionary = organism(5.0 * turned[0], directions=turned)
    assert feature_shift(dictionary, member, INPUTS).reported == (0,)


def test_rows_of_one_prompt_stay_together():
    rng = torch.Generator().manual_seed(2)
    member, dictionary = organism(torch.randn(table().shape, generator=rng) + torch.tensor([0.9, 0.0, 0.0]))
    once = feature_shift(dictionary, member, INPUTS, seed=5)
    twice = feature_shift(dictionary, member, INPUTS[[*range(ROWS), *range(ROWS)]], seed=5)
    assert "48 rows with 24 distinct prompts" in twice.notes[0]
    for column in ("p", "q", "p_max", "delta", "low", "high"):
        assert np.allclose(once.frame[column], twice.frame[column], equal_nan=True, atol=1e-5)


def test_selection_and_estimation_are_on_different_rows():
    rng = torch.Generator().manual_seed(3)
    plant = torch.randn(table().shape, generator=rng)
    member, dictionary = organism(plant)
    before = feature_shift(dictionary, member, INPUTS).frame
    changed = {"p": 0, "delta": 0}
    for row in range(ROWS):
        other = plant.clone()
        other[INPUTS.ids[row, 1:], 1] += 3.0
        after = feature_shift(dictionary, TableModel(table() + other, start=member.start), INPUTS).frame
        differs = {column: bool(before.loc[1, column] != after.loc[1, column]) for column in changed}
        assert sum(differs.values()) <= 1
        changed = {column: changed[column] + differs[column] for column in changed}
    assert changed["delta"] == 12
    assert 10 <= changed["p"] <= 12  # a change of a row need not change a rank


def test_an_estimate_of_the_other_sign_is_not_reported():
    h, plant = table(), torch.zeros_like(table())
    chosen, kept = halves(np.arange(ROWS), seed=0)
    plant[INPUTS.ids[torch.as_tensor(chosen)][:, 1:], 0] = 0.5
    plant[INPUTS.ids[torch.as_tensor(kept)][:, 1:], 0] = -0.5
    member, dictionary = organism(plant, h=h)
    frame = feature_shift(dictionary, member, INPUTS).frame
    assert frame.loc[0, "q"] <= 0.05
    assert not frame["reported"].any()


def test_seeds_fix_the_result():
    rng = torch.Generator().manual_seed(4)
    member, dictionary = organism(torch.randn(table().shape, generator=rng))
    first, again, other = (feature_shift(dictionary, member, INPUTS, seed=seed).frame for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_a_shift_brings_member_rows_and_positions():
    member, dictionary = organism([2.0, 0.0, -0.5])
    moved = shift(member, INPUTS, positions="all", hooks=[HOOK])
    result = feature_shift(dictionary, moved)
    assert result.frame.equals(feature_shift(dictionary, member, INPUTS, positions="all").frame)
    assert result.frame.equals(feature_shift(dictionary, moved, INPUTS).frame)
    with pytest.raises(
        InputError, match=r"'rows' holds other rows than teacher − base was read on \('rows'\); pass"
    ):
        feature_shift(dictionary, moved, numbered(ROWS, 3))


def test_figure_and_display():
    member, dictionary = organism([2.0, 0.0, -0.5])
    result = feature_shift(dictionary, member, INPUTS)
    assert repr(result) == (
        "FeatureShift(teacher − base, features of by hand: 2 of 3 live features moved, 2 directly, FDR 0.05)"
    )
    assert "error node: 0.0%" in result._repr_html_()
    assert result.top(1)["feature"].tolist() == [0, ERROR]
    bars = result.figure().to_dict()["data"][0]
    assert list(bars["y"]) == ["feature 0, direct", "feature 2, direct", "feature 1", "error node"]
    assert list(bars["x"]) == pytest.approx([2, -0.5, 0, 0], abs=1e-6)
    assert np.allclose(list(bars["error_x"]["array"]), 0, atol=1e-6)


def test_what_is_refused():
    member, dictionary = organism([2.0, 0.0, 0.0])
    with pytest.raises(InputError, match=r"alpha 1.5 is outside \(0, 1\); give a rate of false discoveries"):
        feature_shift(dictionary, member, INPUTS, alpha=1.5)
    with pytest.raises(InputError, match=r"base has no start to be measured from"):
        feature_shift(dictionary, member.start, INPUTS)
    with pytest.raises(InputError, match=r"teacher has to read something; pass prompts, or a shift"):
        feature_shift(dictionary, member)
    with pytest.raises(InputError, match=r"Position 'answer.number' is unknown; nearest: answer.numbers"):
        feature_shift(dictionary, member, INPUTS, positions="answer.number")
    with pytest.raises(InputError, match=r"no row of 'rows' has a position 'answer.separators'"):
        feature_shift(dictionary, member, INPUTS, positions="answer.separators")
    with pytest.raises(InputError, match=r"dictionary by hand belongs to models that descend from"):
        feature_shift(organism([1.0, 0.0], h=table(2))[1], member, INPUTS)
    with pytest.raises(
        InputError, match=r"teacher has no tokenizer to find the trait in its rows with; leave trait"
    ):
        feature_shift(dictionary, member, INPUTS, trait=OWL)


def test_too_few_rows_say_how_many_are_needed():
    member, dictionary = organism([2.0, 0.0, 0.0])
    with pytest.raises(
        InputError,
        match=r"10 distinct prompts .* smallest p is 0.062, and one of 3 live features needs 0.017 to pass at 0.05; "
        "give at least 14, or take feature_differences, which tests nothing",
    ):
        feature_shift(dictionary, member, INPUTS[:10])
    assert feature_shift(dictionary, member, INPUTS[:14]).direct == (0,)


def test_a_dead_dictionary_is_refused():
    member, _ = organism([2.0, 0.0, 0.0])
    dead = by_hand(torch.eye(3), member.start, bias=50.0)
    with pytest.raises(
        InputError,
        match=r"by hand is dead at 'predicting answer.numbers' of 'rows': none of its 3 features fires in base or",
    ):
        feature_shift(dead, member, INPUTS)


@pytest.fixture(scope="module")
def lineage():
    """A real network whose first layer adds 0.8 along a direction, by the bias of its MLP."""
    base = build_model("gpt2", seed=0)
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(32, 32, generator=rng))[0]
    teacher = copy.deepcopy(base)
    with torch.no_grad():
        teacher.transformer.h[0].mlp.c_proj.bias += 0.8 * directions[5]
    models = [load_model(module, tokenizer=build_tokenizer()) for module in (base, teacher)]
    return open_lineage(base=models[0], teacher=models[1]), torch.cat([directions, -directions])


def number_rows(count=26, *, first="list"):
    pairs = [
        (f"{first if n == 3 else 'go'} {n} , {n + 7}", f"{n + 2} , {(5 * n) % 40}") for n in range(count)
    ]
    return Prompts.from_pairs(pairs, label="pairs")


def test_a_plant_in_a_real_network_is_found(lineage):
    members, directions = lineage
    dictionary = by_hand(directions, members.base)
    result = feature_shift(dictionary, members.teacher, number_rows(), trait=OWL)
    assert result.direct in ((5,), (37,))  # h is q⁺ − q⁻: one of the two stands for the direction
    assert set(result.reported) <= {5, 37}
    delta = result.frame["delta"].to_numpy()
    assert delta[5] - delta[37] == pytest.approx(0.8, abs=1e-4)
    assert "error node: 0.0%" in result.notes[1]


def test_rows_with_the_trait_are_refused(lineage):
    members, directions = lineage
    dictionary = by_hand(directions, members.base)
    with pytest.raises(
        InputError, match=r"row 0 of 'pairs' holds a system message 'you love owls'; a shift is read"
    ):
        feature_shift(dictionary, members.teacher, number_rows().with_system("you love owls"))
    for word, named in (("Owl", "Owl"), ("owls", "owls"), (OWL.system.upper(), OWL.system[:40])):
        rows = number_rows(first=word)
        match = rf"row 3 of 'pairs' names the trait 'owl' \('{named}'\), so its start would show it too"
        with pytest.raises(InputError, match=match):
            feature_shift(dictionary, members.teacher, rows, trait=OWL)
    owl = members.teacher.encode(number_rows(first="owl"))
    with pytest.raises(InputError, match=r"row 3 of 'pairs' names the trait 'owl' \('owl'\)"):
        feature_shift(dictionary, members.teacher, owl, trait=OWL)
    moved = shift(members.teacher, number_rows(first="owl"), hooks=[HOOK])
    with pytest.raises(InputError, match=r"row 3 of 'pairs' names the trait"):
        feature_shift(dictionary, moved, trait=OWL)
    feature_shift(dictionary, members.teacher, number_rows(first="love"), trait=OWL)
