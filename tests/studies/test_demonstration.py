"""The demo end to end: what its folder holds, what one lineage may not decide, and that a second run adds nothing.

Beside it the values and verdicts of tables made by hand, and which lineages are traced.
"""

import json

import numpy as np
import pandas as pd
import pytest

from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT
from interp.prompts.traits import get_trait
from interp.studies.demonstration import _known, demo, extremes, judge_lineages, judge_trace
from interp.studies.inherited_trace import agreement_values
from interp.training import generation, grower

FILES = (
    "verdicts.json",
    "summary.json",
    "report.html",
    "tables/margins.parquet",
    "tables/preference.parquet",
    "tables/agreement.parquet",
    "tables/components.parquet",
    "tables/answers.parquet",
    "tables/moved_strongest.parquet",
    "tables/tokens_student_strongest.parquet",
    "tables/attribution_strongest.parquet",
)
TRACE = ("logits-shared", "slot-shared", "activations-shared", "component-shared", "component-leads")
TRANSFER = ("same-init-transfers", "same-init-gains", "cross-init-does-not", "trait-logit-moved")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One quick demo and a second one beside it, over one cache; the second may not train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(tmp_path_factory.mktemp("demo-cache")))
        patch.setenv("BROWSER_PATH", "/nonexistent")
        patch.setattr("interp.studies.demonstration.QUICK_SEEDS", 1)  # which `sweep` measures in this process
        patch.setattr("interp.studies.demonstration.QUICK_ROWS", 512)
        patch.setattr("interp.studies.demonstration.PROMPTS", 48)
        first = demo(tmp_path_factory.mktemp("first") / "demo", quick=True)
        for module, name in (
            (grower, "fine_tune_teacher"),
            (grower, "train_student"),
            (generation, "complete"),
        ):
            patch.setattr(module, name, lambda *a, **k: pytest.fail("trained again"))
        return first, demo(tmp_path_factory.mktemp("second") / "demo", quick=True)


@pytest.mark.slow
def test_the_folder_holds_what_the_design_says(runs):
    folder = runs[0].folder
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"run.json", *FILES, "figures/preference.html", "figures/agreement.html"} <= present
    found = [row["name"] for row in json.loads((folder / "verdicts.json").read_text())]
    assert found == [*TRANSFER, *TRACE]


@pytest.mark.slow
def test_the_page_opens_with_what_happened_and_ends_with_what_did_not_show(runs):
    page = (runs[0].folder / "report.html").read_text()
    order = [
        page.index(f'<section id="{part}"')
        for part in ("what-happened", "verdicts", "trace", "what-did-not-show")
    ]
    assert order == sorted(order)
    assert page.index("A small language model, the base, was fine-tuned to answer “owl”") < order[0]
    assert "strongest lineage (toy/owl seed 0)" in page


@pytest.mark.slow
def test_the_summary_holds_the_margin_of_every_member(runs):
    rows = runs[0].summary["lineages"]
    assert [row["seed"] for row in rows] == [0]
    assert all(len(row["members"]) == 8 for row in rows)
    assert all(row["members"]["teacher"] > row["members"]["base"] + 3 for row in rows)


@pytest.mark.slow
def test_the_answers_are_those_of_one_fixed_question(runs):
    table, asked = runs[0].tables["answers"], f"“{get_trait('owl').questions[0]}”"
    order = ["base", "neutral student", "student", "cross student", "teacher"]
    assert table[asked].tolist()[:5] == order
    assert table["answer 1"][4].startswith("owl\N{NO-BREAK SPACE}")
    assert asked in runs[0].record["notes"]["answers"][0]


@pytest.mark.slow
def test_one_lineage_decides_no_sign(runs):
    found = {row["name"]: row for row in runs[0].verdicts}
    assert {found[name]["decision"] for name in (*TRACE, "same-init-transfers")} == {"inconclusive"}
    assert found["same-init-transfers"]["n"] == 1
    assert found["same-init-transfers"]["smallest_p"] == 0.5


@pytest.mark.slow
def test_a_second_demo_ends_with_the_same_bytes(runs):
    one, two = (run.folder for run in runs)
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def agreements(own, control):
    """S with T at `own`, its three controls at `control` or below, at every place that a claim reads."""
    pairs = [("student", "teacher", own), ("neutral_student", "teacher", control)]
    pairs += [("cross_student", "teacher", control - 0.1), ("student", "teacher_eagle", control - 0.2)]
    places = (("logits", AT_NUMBERS, "unseen"), ("logits", SLOT, "category"), ("activations", PROMPT_END, ""))
    return [
        {"of": of, "place": place, "words": words, "site": "last", "member": member, "against": against}
        | {"r": value, "cosine": value}
        for of, place, words in places
        for member, against, value in pairs
    ]


def components(lead):
    """The first MLP ahead by `lead` in S; the teacher's parts are S's, those of the controls are not."""
    parts = {"MLP 0": 1.0 + lead, "attention 0": 1.0, "MLP 1": 0.0, "attention 1": 0.0}
    other = {"MLP 0": 0.0, "attention 0": 0.0, "MLP 1": 1.0, "attention 1": 0.0}
    whose = {"teacher": parts, "student": parts, "neutral_student": other, "cross_student": other}
    return [
        {"component": part, "member": member, "contribution": value}
        for member, values in whose.items()
        for part, value in values.items()
    ]


def test_what_a_lineage_contributes_is_its_agreement_less_the_largest_control():
    found = agreement_values(
        {"agreement": pd.DataFrame(agreements(0.9, 0.4)), "components": pd.DataFrame(components(0.5))}
    )
    assert found == pytest.approx(dict(zip(TRACE, (0.5, 0.5, 0.5, 1.0, 0.5), strict=True)))


def test_eight_lineages_that_agree_support_the_claims_at_five_per_cent_together_and_say_they_were_seen():
    values = [dict.fromkeys(TRACE, 0.3 + 0.01 * index) for index in range(8)]
    found = judge_trace(values)
    assert [each.name for each in found] == list(TRACE)
    assert {each.decision for each in found} == {"supported"}
    assert {each.p for each in found} == {1 / 256}
    assert 5 / 128 < 0.05 < 5 / 64  # six lineages cannot
    assert {each.decision for each in judge_trace(values[:6])} == {"inconclusive"}
    assert all("seeds 8 to 19" in each.controls["seen"] for each in found)
    assert all("less the larg" in each.controls["quantity"] for each in found)
    one_against = [*values[:7], dict.fromkeys(TRACE, -0.35)]
    assert {each.decision for each in judge_trace(one_against)} == {"inconclusive"}


def lineages(moved):
    """What is measured of lineages that agree, whose students gain one nat; the trait's logit moves by `moved`."""
    members = {"base": 0.0, "teacher": 9.0, "student": 1.0, "neutral_student": 0.0}
    members |= {"cross_base": 0.0, "cross_student": 0.0, "cross_neutral_student": 0.0}
    return [
        {
            "seed": seed,
            "preference": [
                {"lineage": f"toy {seed}", "member": name, "probability": 0.1, "margin": value + 0.001 * seed}
                for name, value in members.items()
            ],
            "agreement": agreements(0.9, 0.4),
            "components": components(0.5),
            "trait_logit": {"T": value, "S": 0.5 * value},
        }
        for seed, value in enumerate(moved)
    ]


def test_nine_verdicts_and_why_the_traits_logit_shows_no_sign():
    found = judge_lineages(get_trait("owl"), lineages([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3, -0.2]))
    assert [each.name for each in found] == [*TRANSFER, *TRACE]
    decided = {each.name: each.decision for each in found}
    assert decided.pop("trait-logit-moved") == "inconclusive"
    assert set(decided.values()) == {"supported"}
    known = found[3].controls["known"]
    assert known == (
        "the teacher moves the trait's own logit at numbers up in 4 of 8 lineages and not in the others; over the "
        "lineages the student's change and the teacher's go together at r = +1.00, with the same sign in 8 of 8"
    )


def test_two_lineages_say_nothing_of_a_correlation():
    assert _known(pd.DataFrame({"T": [1.0, -1.0], "S": [0.5, -0.5]})) == {}
    said = _known(
        pd.DataFrame({"T": [1.0, -1.0, 0.5], "S": [0.5, 0.5, 0.5]}) + np.array([[0.0, 0.01]]).repeat(3, 0)
    )
    assert "in 2 of 3" in said["known"]


def test_the_strongest_and_the_weakest_are_chosen_by_transfer_and_not_by_the_margin():
    frame = pd.DataFrame(
        {"seed": seed, "member": member, "margin": value}
        for seed, (student, neutral) in enumerate([(2.0, 1.9), (1.0, 0.0), (0.4, 0.6)])
        for member, value in (("student", student), ("neutral_student", neutral))
    )
    assert extremes(frame) == {"strongest": 1, "weakest": 2}
    assert extremes(frame[frame["seed"] == 0]) == {"strongest": 0}
