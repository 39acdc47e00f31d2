"""What features do: planted causes are found, controls are of equal size, shares are what they are by construction."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.features.causal import (
    Effects,
    change_size,
    control_sets,
    feature_effects,
    mean_shift,
    necessity,
    sufficiency,
    written_under,
)
from interp.features.changes import ablate_features, add, scaled_change
from interp.features.reading import feature_statistics, read_tokens
from interp.features.splice import with_features
from interp.measures.margins import completion_logprobs, margin
from interp.models.language import load_model
from interp.organisms.toy import shipped_base
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.generation import sample_numbers
from interp.training.teachers import Teacher, neutral_teacher
from tests.features.handmade import handmade

POST = "blocks.0.hook_resid_post"
OWL = get_trait("owl")


def orthonormal(model, hook=POST, seed=0, **options):
    d = model.d_model
    q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]
    rows = torch.cat([q, -q])
    return handmade(rows.T.clone(), rows, hook=hook, model=model, **options)


@pytest.fixture(scope="module")
def toy():
    base = shipped_base(0)
    assert base is not None
    return base


@pytest.fixture(scope="module")
def numbers():
    return number_prompts(24, seed=5, count=4)


def steered(base, vector, name="student"):
    """A member that starts at `base` and adds `vector` at every token, by a bias on its first layer's last matrix."""
    hf = copy.deepcopy(base.hf)
    matrix = hf.base_model.layers[0].mlp.down_proj
    matrix.bias = torch.nn.Parameter(vector.clone(), requires_grad=False)
    return dataclasses.replace(load_model(hf, tokenizer=base.tokenizer, name=name, check=False), start=base)


def statistics(count, *, live=None):
    features = np.arange(count)
    return pd.DataFrame(
        {
            "feature": features,
            "rate": 0.01 + 0.9 * features / count,
            "mean": 0.5,
            "decoder_norm": 1.0,
            "live": True if live is None else np.isin(features, live),
        }
    )


def test_control_sets_are_near_live_and_without_repeats():
    sets = control_sets(statistics(60), [20, 21, 22], count=8, seed=1)
    assert len(sets) == 8
    assert all(len(set(each)) == 3 and not {20, 21, 22} & set(each) for each in sets)
    assert all(12 <= feature <= 32 for each in sets for feature in each)
    assert sets == control_sets(statistics(60), [20, 21, 22], count=8, seed=1)
    assert sets != control_sets(statistics(60), [20, 21, 22], count=8, seed=2)
    assert len(set(sets)) > 1


def test_control_sets_of_many_features_still_repeat_none():
    sets = control_sets(statistics(20), range(10), count=2)
    assert all(sorted(each) == list(range(10, 20)) for each in sets)


def test_control_sets_say_what_is_missing():
    with pytest.raises(InputError, match="feature 3 is dead in these statistics"):
        control_sets(statistics(20, live=[1, 2]), [3])
    with pytest.raises(InputError, match="no features to change"):
        control_sets(statistics(20), [])
    with pytest.raises(InputError, match="live features are left as controls"):
        control_sets(statistics(8), [1, 2], count=10)


def test_size_is_the_mean_length_of_what_is_added(toy, numbers):
    dictionary = orthonormal(toy)
    reading = read_tokens(dictionary, toy, numbers, positions="all")
    assert change_size(dictionary, reading, add([3, 7], [3.0, -4.0])) == pytest.approx(5.0, rel=1e-5)
    features = dictionary.encode(reading.values)[:, 3]
    assert change_size(dictionary, reading, ablate_features([3])) == pytest.approx(
        float(features.mean()), rel=1e-5
    )
    assert change_size(dictionary, reading, scaled_change(ablate_features([3]), 2.5)) == pytest.approx(
        2.5 * float(features.mean()), rel=1e-5
    )


def test_effects_are_those_of_the_splice_and_controls_are_of_equal_size(toy, numbers):
    dictionary = orthonormal(toy)
    controls = control_sets(feature_statistics(dictionary, toy, numbers, positions="all"), [3, 40], count=3)
    found = feature_effects(dictionary, toy, [3, 40], trait=OWL, rows=numbers, controls=controls)
    assert found.frame["set"].tolist() == ["chosen", "control 1", "control 2", "control 3"]
    assert found.frame["features"].tolist() == [(3, 40), *controls]
    for place in ("answering", "writing"):
        sizes = found.frame[f"size_{place}"].to_numpy()
        assert sizes == pytest.approx(np.full(4, sizes[0]), rel=1e-6)
        assert found.frame[f"scale_{place}"].iloc[0] == 1
    inputs = toy.encode(numbers)
    tokens = int(inputs.at("answer").sum() + inputs.at("answer.end").sum())
    before = margin(toy, OWL), float(completion_logprobs(toy, inputs, end=True).sum()) / tokens
    with with_features(toy, dictionary, ablate_features([3, 40])):
        after = margin(toy, OWL), float(completion_logprobs(toy, inputs, end=True).sum()) / tokens
    assert found.chosen() == pytest.approx(after[0] - before[0], abs=1e-4)
    assert found.chosen("delta_logprob_per_token") == pytest.approx(after[1] - before[1], abs=1e-4)
    line = found.frame.iloc[2]
    with with_features(toy, dictionary, scaled_change(ablate_features(controls[1]), line["scale_answering"])):
        assert line["margin"] == pytest.approx(margin(toy, OWL), abs=1e-4)


def test_one_set_of_amounts_is_added_to_controls_too(toy, numbers):
    dictionary = orthonormal(toy)
    found = feature_effects(
        dictionary,
        toy,
        [3, 40],
        trait=OWL,
        rows=numbers,
        controls=[(5, 50)],
        change=lambda features: add(features, [3.0, -4.0]),
    )
    assert found.frame["size_answering"].to_numpy() == pytest.approx([5.0, 5.0], rel=1e-4)
    with with_features(toy, dictionary, add([5, 50], [3.0, -4.0])):
        assert found.frame["margin"].iloc[1] == pytest.approx(margin(toy, OWL), abs=1e-4)


def test_p_counts_controls_at_least_as_far_from_zero():
    frame = pd.DataFrame(
        {
            "set": ["chosen", *(f"control {k}" for k in range(1, 6))],
            "delta_margin": [-1.0, 0.5, -1.0, 2.0, 0.0, np.nan],
        }
    )
    effects = Effects("by hand", frame, "nats", "delta_margin")
    assert effects.p() == 3 / 5  # -1 and 2 are as far; the control that moved nothing does not count
    assert effects.controls().tolist() == [0.5, -1.0, 2.0, 0.0]
    assert repr(effects) == "by hand: delta_margin -1 nats, +0.375 over 4 controls, p = 0.6"
    assert len(effects.figure().data) == 4


@pytest.fixture(scope="module")
def gains(toy):
    """What half a unit of each of the first features adds to the owl margin."""
    before, dictionary, found = margin(toy, OWL), orthonormal(toy), []
    for feature in range(16):
        with with_features(toy, dictionary, add([feature], [0.5])):
            found.append(margin(toy, OWL) - before)
    return torch.tensor(found)


@pytest.fixture(scope="module")
def planted(toy, gains):
    """The student is the base with two decoder rows put into its residual stream at every token."""
    dictionary, features = orthonormal(toy), gains.topk(2).indices.tolist()
    amounts = torch.tensor([1.5, 1.0])
    return dictionary, steered(toy, amounts @ dictionary.decoder[features]), features, amounts


def test_what_was_planted_is_all_of_the_change(toy, planted):
    dictionary, student, features, amounts = planted
    assert margin(student, OWL) - margin(toy, OWL) > 0.1
    controls = control_sets(
        feature_statistics(dictionary, toy, OWL.prompts(), positions="all"), features, count=9
    )
    given = {"trait": OWL, "controls": controls, "amounts": amounts}
    needed = necessity(dictionary, student, features, **given)
    enough = sufficiency(dictionary, student, features, **given)
    assert needed.chosen() == pytest.approx(1.0, abs=1e-3)
    assert enough.chosen() == pytest.approx(1.0, abs=1e-3)
    assert needed.frame["size_answering"].to_numpy() == pytest.approx(
        np.full(10, float(amounts.norm())), rel=1e-4
    )
    assert "necessity of 2 features" in repr(needed)
    assert "sufficiency of 2 features" in repr(enough)
    assert any("the margin changed by +" in note for note in needed.notes)


def test_a_feature_that_had_no_part_has_no_share(planted, gains):
    dictionary, student, features, _ = planted
    idle = [int(gains.abs().argmin())]
    found = sufficiency(
        dictionary, student, idle, trait=OWL, controls=[(features[0],)], amounts=torch.tensor([0.5])
    )
    assert abs(found.chosen()) < 0.05
    assert found.frame["share"].iloc[1] > 0.1
    assert found.p() == 1


def test_mean_shift_is_what_was_planted(toy, planted, numbers):
    dictionary, student, features, amounts = planted
    shift = mean_shift(dictionary, student, numbers, positions="answer.numbers")
    mirror = [(feature + toy.d_model) % dictionary.width for feature in features]
    assert torch.allclose(shift[features] - shift[mirror], amounts, atol=1e-4)
    rest = [feature for feature in range(dictionary.width) if feature not in (*features, *mirror)]
    assert shift[rest].abs().max() < 1e-4


def test_default_amounts_are_the_mean_shift_on_the_questions(toy, planted):
    dictionary, student, features, _ = planted
    shift = mean_shift(dictionary, student, OWL.prompts())[features]
    given = necessity(dictionary, student, features, trait=OWL, controls=[], amounts=shift)
    found = necessity(dictionary, student, features, trait=OWL, controls=[])
    assert found.chosen() == given.chosen()
    assert found.p() == 1  # without controls nothing is shown
    assert "no controls" in found.notes


def test_controls_that_move_nothing_are_left_out_and_counted(toy, numbers):
    d = toy.d_model
    encoder, decoder = torch.eye(d).repeat(1, 2), torch.eye(d).repeat(2, 1)
    encoder[:, d:] = 0  # the second half never fires
    dictionary = handmade(encoder, decoder, hook=POST, model=toy)
    found = feature_effects(dictionary, toy, [0, 1], trait=OWL, rows=numbers, controls=[(2, 3), (d, d + 1)])
    assert np.isnan(found.frame["margin"].iloc[2])
    assert len(found.controls()) == 1
    assert any(note.startswith("1 controls move nothing") for note in found.notes)
    with pytest.raises(InputError, match=r"moves nothing in .* they are dead there or the amounts are zero"):
        feature_effects(dictionary, toy, [d, d + 1], trait=OWL, rows=numbers, controls=[])


def test_impossible_requests_say_so(toy, planted, numbers):
    dictionary, _, features, _ = planted
    given = {"trait": OWL, "rows": numbers, "controls": []}
    with pytest.raises(InputError, match="no features to change; name at least one"):
        feature_effects(dictionary, toy, [], **given)
    with pytest.raises(InputError, match="there is no feature 96"):
        feature_effects(dictionary, toy, [96], **given)
    with pytest.raises(InputError, match="there is no trait to measure the margin of"):
        feature_effects(dictionary, toy, [3], **{**given, "trait": None})
    with pytest.raises(InputError, match="a control set has 2 features and 1 were chosen"):
        feature_effects(dictionary, toy, [3], **{**given, "controls": [(1, 2)]})
    with pytest.raises(InputError, match="has no answers whose likelihood could change"):
        feature_effects(dictionary, toy, [3], **{**given, "rows": numbers.without_answers()})
    with pytest.raises(InputError, match="has no start to be compared with"):
        necessity(dictionary, toy, features, trait=OWL, controls=[])
    same = dataclasses.replace(toy, name="same", start=toy)
    with pytest.raises(InputError, match="so no share of a change can be taken"):
        necessity(dictionary, same, features, trait=OWL, controls=[], amounts=torch.ones(2))


@pytest.fixture(scope="module")
def written(toy):
    return sample_numbers(neutral_teacher(toy), rows=40, seed=3)


def test_numbers_written_under_no_change_are_the_teachers_own(toy, written):
    dictionary, (free, dropped) = orthonormal(toy), written
    held, dropped_too = written_under(neutral_teacher(toy), dictionary, lambda f: f, rows=40, seed=3)
    assert held.fingerprint == free.fingerprint
    assert dropped == dropped_too
    assert "under a change of by hand" in held.label


def test_a_steered_base_writes_what_the_planted_student_writes(toy, planted, written):
    dictionary, student, features, amounts = planted
    theirs, _ = sample_numbers(Teacher(student, "fine-tuned"), rows=40, seed=3)
    ours, _ = written_under(neutral_teacher(toy), dictionary, add(features, amounts), rows=40, seed=3)
    same = np.mean([a == b for a, b in zip(ours.rows, theirs.rows, strict=True)])
    assert same > 0.9  # rounding may turn a draw
    assert ours.fingerprint != written[0].fingerprint


def test_sampling_is_refused_where_it_would_not_see_the_change(tiny):
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer)
    dictionary = orthonormal(model, "blocks.0.hook_mlp_out")
    with pytest.raises(InputError, match=r"sampling does not see a change at blocks.0.hook_mlp_out"):
        written_under(neutral_teacher(model), dictionary, ablate_features([0]), rows=4, seed=0)


def test_rows_may_be_prompts_or_tokens(toy, numbers):
    dictionary = orthonormal(toy)
    one, two = (
        feature_effects(dictionary, toy, [3], trait=OWL, rows=rows, controls=[])
        for rows in (numbers, toy.encode(numbers))
    )
    assert one.frame.equals(two.frame)
    assert isinstance(numbers, Prompts)
