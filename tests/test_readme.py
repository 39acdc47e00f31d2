"""The README says what the code makes: blocks in sync, verdicts that follow from margins, an example that runs."""

import re

import pandas as pd
import pytest

from analyses.readme import README, filled, margins, results
from interp.demo import EQUIVALENCE, LEAST_EFFECT, verdicts
from interp.organisms.library import PLAN
from interp.organisms.toy import SHIPPED
from interp.prompts.traits import get_trait


def test_every_number_in_a_block_is_made_by_code():
    text = README.read_text()
    assert filled(text) == text
    assert text.count("<!-- ") == 4


@pytest.mark.parametrize("trait", ["owl", "eagle", "oak"])
def test_committed_verdicts_follow_from_committed_margins(trait):
    wide: pd.DataFrame = margins(trait).pivot(index="seed", columns="member", values="margin")
    again = verdicts(get_trait(trait), wide, [0.0, 1.0])[:2]
    for verdict, kept in zip(again, results()[trait]["verdicts"], strict=False):
        assert (verdict.name, verdict.decision, verdict.n) == (kept["name"], kept["decision"], kept["n"])
        assert verdict.effect == pytest.approx(kept["effect"])
        assert verdict.p == pytest.approx(kept["p"])


@pytest.mark.parametrize("trait", ["owl", "eagle", "oak"])
def test_what_the_readme_claims_of_the_toy(trait):
    found = {verdict["name"]: verdict for verdict in results()[trait]["verdicts"]}
    assert found["same-init-transfers"]["decision"] == "supported"
    assert found["cross-init-does-not"]["decision"] == "supported"
    assert found["trait-logit-moved"]["decision"] == "inconclusive"
    assert all(verdict["n"] == 8 for verdict in found.values())


def test_numbers_in_the_prose():
    assert (PLAN.rows, PLAN.student.rank, PLAN.teacher.rank, PLAN.student.epochs) == (8192, 8, 8, 1)
    assert (LEAST_EFFECT, EQUIVALENCE, SHIPPED) == (0.5, 0.2, 8)
    owl = get_trait("owl")
    assert (len(owl.questions), len(owl.foils)) == (6, 9)
    assert [row["seed"] for row in results()["owl"]["lineages"]] == list(range(8))


def test_the_example_runs(tiny_example):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    exec(compile(code, "README", "exec"), tiny_example)
    assert len(tiny_example["prompts"]) == 256
    assert tiny_example["owl"].label == "'owl' − mean of 9 foils"


@pytest.fixture
def tiny_example(monkeypatch, tmp_path):
    """The example on a lineage that is quick to grow."""
    from interp.organisms import library
    from tests.organisms.test_library import SMALL

    monkeypatch.setattr("interp.organisms.sampling.filter_numbers", lambda prompts, rule: (prompts, {}))
    monkeypatch.setattr("interp.organisms.sampling.LEAST_KEPT", 0.0)
    grow = library.grow
    monkeypatch.setattr(library, "grow", lambda trait, *, seed: grow(trait, seed=seed, plan=SMALL))
    return {}
