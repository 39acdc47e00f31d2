"""What of a student trains, and on how many rows: values by hand, and one quick run of each from end to end."""

import dataclasses

import pandas as pd
import pytest
import torch

from interp.joined.places import SLOT, chosen_words, places
from interp.measures.margins import margin
from interp.studies import student_arms
from interp.studies.student_arms import ALL, ARMS_FAMILY, BODY, DOSE_FAMILY, arm_recipe, taken_over
from interp.studies.testing import Trial, subject
from interp.training.students import STUDENT, prepare


@pytest.fixture(scope="module")
def quick():
    return subject(Trial("student-arms", "toy/owl", 0, quick=True))


@pytest.mark.slow
def test_an_arm_trains_what_it_says_and_nothing_else(quick):
    recipe = dataclasses.replace(STUDENT, seed=7)
    trained = {}
    for arm in (BODY, ALL):
        made = arm_recipe(recipe, arm)
        assert (made.seed, made.batch_size) == (7, recipe.batch_size)
        network, adapted = prepare(quick.base, made)
        assert adapted is None
        trained[arm] = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert trained[ALL] == set(dict(quick.base.network().named_parameters()))
    assert "lm_head.weight" not in trained[BODY]
    assert all("proj" in name for name in trained[BODY])


def test_a_line_is_margin_agreement_and_contrast_of_a_pair(quick):
    """The teacher against the base agrees with itself, transfers its own margin, and stands out by hand."""
    pair = quick.teacher, quick.base
    (line,) = taken_over(quick, {"itself": pair}, column="arm").to_dict("records")
    assert line["agreement"] == pytest.approx(1.0)
    assert line["transfer"] == pytest.approx(margin(quick.teacher, "owl") - margin(quick.base, "owl"))
    (slot,) = places(quick.lineage, [SLOT], None)
    target, *foils = slot.difference(pair, "logits")[chosen_words(quick.lineage, "category")]
    foils = torch.stack(foils)
    assert line["contrast"] == pytest.approx(float((target - foils.mean()) / foils.std()))


def test_rows_rank_with_what_they_do(quick, monkeypatch):
    made = pd.DataFrame(
        {"rows": [512, 1024, 2048], "transfer": [0.1, 0.3, 0.2], "agreement": [0.1, 0.2, 0.3]}
    )
    monkeypatch.setattr(student_arms, "dose_pairs", lambda subject: {})
    monkeypatch.setattr(student_arms, "taken_over", lambda *a, **k: made)
    values = DOSE_FAMILY.measure(quick).values
    assert values == {
        "more-rows-transfer-more": pytest.approx(0.5),
        "agreement-grows-with-rows": pytest.approx(1.0),
    }


@pytest.mark.slow
@pytest.mark.parametrize("tested", [ARMS_FAMILY, DOSE_FAMILY], ids=lambda family: family.name)
def test_one_quick_run_has_a_value_for_every_claim(tested, quick):
    found = tested.measure(quick)
    assert set(found.values) == {claim.name for claim in tested.claims}
    tested.draw({name: pd.DataFrame(table) for name, table in found.tables.items()})


def test_what_a_folder_lacks_can_be_left_out(quick):
    assert {claim.name for claim in ARMS_FAMILY.judged(["control", "foreign"])} == {
        "adapter-transfers", "body-transfers", "all-parameters-transfer",
    }  # fmt: skip
