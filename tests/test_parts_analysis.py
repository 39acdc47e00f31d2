"""Parts and rows of a chat model's lineages: values by hand, claims that wait, the page, and the whole on a toy."""

import pytest

import interp
from analyses import chat_parts_page as page, smollm2_parts as analysis

TRAITS = analysis.TRAITS


def seed(*, cosine, lean):
    """One seed in which every student's cosine is `cosine`, the controls' .5 and .25, and own rows lean by `lean`."""
    cosines = {"teacher": 1.0, "student": cosine, "other student": 0.5, "neutral student": 0.25}
    parts = {
        "cosine": cosines,
        "first": {who: {"L1 MLP": -2.0, "L0 attention": 1.0} for who in analysis.MEMBERS},
    }
    leaning = {toward: {who: lean if who == toward else 0.25 for who in TRAITS} for toward in TRAITS}
    return {"parts": dict.fromkeys(TRAITS, parts), "lean": leaning}


def test_values_are_own_less_the_strongest_control_and_the_other_teachers_rows():
    found = analysis.judged({"1": seed(cosine=0.75, lean=1.0)})
    assert found["per lineage"] == {"component-shared": [0.25] * 3, "rows-lean": [0.75] * 3}
    assert found["verdicts"] == []


def test_claims_are_judged_over_all_seeds():
    by_seed = {str(each): seed(cosine=0.75 + 0.01 * each, lean=0.05 + 0.1 * each) for each in (1, 2, 3)}
    decisions = {verdict.name: verdict.decision for verdict in analysis.judged(by_seed)["verdicts"]}
    assert decisions == {"component-shared": "supported", "rows-lean": "inconclusive"}


def test_the_page_has_cosines_leading_parts_and_leans(monkeypatch):
    kept = analysis.judged({"1": seed(cosine=0.75, lean=1.0), "2": seed(cosine=0.85, lean=2.0)})
    monkeypatch.setattr(page, "measured", lambda name: True)
    monkeypatch.setattr(page, "kept", lambda name: kept)
    told = page.parts().splitlines()
    assert told[0] == "2 of 3 seeds are measured; the claims are judged when all are."
    assert told[4] == "| teacher | 1 | L1 MLP 6 |"
    assert told[5].startswith("| student, less the neutral student | +0.80 [")
    assert told[-3] == "| owl | +1.50 | +0.25 | +0.25 |"


@pytest.fixture(scope="module")
def owl():
    return interp.load_lineage("toy/owl", seed=0)


def test_cosines_and_leans_of_a_lineage_are_those_of_its_own_numbers(owl, monkeypatch):
    """The toy has no student of another trait: one of another start stands for it."""
    members = analysis.MEMBERS | {"other student": ("cross_student", "cross_neutral_student")}
    monkeypatch.setattr(analysis, "MEMBERS", members)
    found = analysis.split(owl)
    assert found["cosine"]["teacher"] == pytest.approx(1)
    values = interp.logits.attribute_over([owl], members=members).values
    inside = values[values["layer"].notna()]
    S, T = (inside[inside["who"] == who].set_index("part")["value"] for who in ("student", "teacher"))
    assert found["cosine"]["student"] == pytest.approx(
        (S * T).sum() / (S.pow(2).sum() * T.pow(2).sum()) ** 0.5
    )
    assert len(found["first"]["student"]) == min(analysis.FIRST, len(S))
    monkeypatch.setattr(analysis, "ROWS", 16)
    lean = analysis.leaning({"owl": owl})["owl"]
    toward = interp.trait_gradient(owl.base, owl.trait)
    own, neutral = (
        interp.score(owl.base, rows[:16], toward, by=["example"]).totals.numpy()[:, 0]
        for rows in (owl.numbers, owl.neutral_numbers)
    )
    assert lean == pytest.approx(
        {"owl": (own.mean() - neutral.mean()) / neutral.std(ddof=1), "neutral": 0}, abs=1e-6
    )
