"""The claims of the inherited trace: values by hand from small tables, and one quick run from end to end."""

import pandas as pd
import pytest

from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT
from interp.studies.inherited_trace import CLAIMS, FAMILY, beyond, trace_values
from interp.studies.testing import Trial, subject

CONTROLS = (("neutral_student", "teacher"), ("cross_student", "teacher"), ("student", "teacher_eagle"))


def agreements():
    """S with T at 0.9 everywhere, its controls below, but for those at the first site."""
    lines = []
    for of, place, words, site in (
        ("logits", AT_NUMBERS, "unseen", "logits"),
        ("logits", SLOT, "category", "logits"),
        ("activations", PROMPT_END, "", "blocks.0.hook_resid_post"),
        ("activations", PROMPT_END, "", "blocks.1.hook_resid_post"),
    ):
        where = {"of": of, "place": place, "words": words, "site": site}
        lines.append({**where, "member": "student", "against": "teacher", "r": 0.9, "cosine": 0.8})
        lines.append(
            {**where, "member": "student less x", "against": "teacher less y", "r": 1.0, "cosine": 1.0}
        )
        for index, (member, against) in enumerate(CONTROLS):
            value = 0.5 - 0.1 * index if site != "blocks.0.hook_resid_post" else 0.99
            lines.append({**where, "member": member, "against": against, "r": value, "cosine": value})
    return pd.DataFrame(lines)


def tables():
    parts = {
        "teacher": (4.0, 0.0, 0.0, 3.0),
        "student": (0.8, 0.0, 0.0, 0.6),
        "neutral_student": (0.0, 1.0, 0.0, 0.0),
        "cross_student": (3.0, 0.0, 0.0, -4.0),
    }
    names = ("MLP 0", "attention 0", "attention 1", "MLP 1")
    components = [
        {"component": name, "member": member, "contribution": value}
        for member, values in parts.items()
        for name, value in zip(names, values, strict=True)
    ]
    gains = {"student": 0.5, "neutral_student": 0.1, "cross_student": -0.2, "other teacher": 0.2}
    directions = [{"direction": name, "gain": gain} for name, gain in gains.items()]
    directions += [{"direction": "random", "gain": 0.9}, {"direction": "random", "gain": -0.3}]  # mean 0.3
    named = {"student": (0.6, 0.1), "neutral_student": (0.2, 0.7), "cross_student": (0.3, 0.9)}
    representations = [
        {"source": source, "candidate": word, "member": member, "cosine": value}
        for source in ("system line", "candidate teacher")
        for member, values in named.items()
        for word, value in zip(("owl", "eagle"), values, strict=True)
    ]
    leans = [
        {"start": start, "direction": word, "d": d}
        for start, word, d in (
            ("base", "owl", 0.2), ("base", "eagle", 0.05), ("base", "cat", 0.5),
            ("cross_base", "owl", 0.08), ("cross_base", "eagle", 0.4),
        )
    ]  # fmt: skip
    features = [{"place": "end", "rho": rho} for rho in (0.5, -0.1, 0.2)] + [{"place": "slot", "rho": 0.9}]
    return {
        "agreement": agreements(),
        "components": pd.DataFrame(components),
        "directions": pd.DataFrame(directions),
        "representations": pd.DataFrame(representations),
        "leans": pd.DataFrame(leans),
        "features": pd.DataFrame(features),
    }


def test_every_value_is_the_own_agreement_less_the_largest_control():
    values = trace_values(tables())
    assert set(values) == {claim.name for claim in CLAIMS}
    expected = {
        "logits-shared": 0.4,
        "slot-shared": 0.4,
        "activations-shared": 0.3,  # the last site's, not the first's
        "component-shared": 1.0,  # student 1, cross 0, neutral 0
        "component-leads": 0.2,
        "slot-direction-sufficient": 0.2,  # the mean of the random vectors is the largest control
        "representation-named-by-base": 0.3,
        "representation-named-by-candidates": 0.3,
        "rows-lean-to-representation": 0.12,
        "features-shared": 0.3,
    }
    for claim, value in expected.items():
        assert values[claim] == pytest.approx(value), claim


def test_one_control_that_does_as_well_takes_the_value_to_zero():
    assert beyond(0.7, [0.1, 0.7, -1.0]) == 0.0
    worse = tables()
    worse["agreement"].loc[worse["agreement"]["member"] == "cross_student", "r"] = 0.95
    assert trace_values(worse)["logits-shared"] == pytest.approx(-0.05)


def test_twelve_runs_decide_all_ten_claims_under_holm_and_eleven_do_too():
    assert FAMILY.undecided(12) is None
    assert FAMILY.undecided(9) is not None  # 1/512 is above 0.01 / 10


@pytest.mark.slow
def test_one_quick_run_fills_every_table():
    found = FAMILY.measure(subject(Trial("inherited-trace", "toy/owl", 0, quick=True)))
    assert set(found.values) == {claim.name for claim in CLAIMS}
    assert all(abs(value) < 100 for value in found.values.values())
    assert {"agreement", "components", "directions", "representations", "leans", "features"} <= set(
        found.tables
    )
    FAMILY.draw({name: pd.DataFrame(table) for name, table in found.tables.items()})
