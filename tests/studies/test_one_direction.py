"""A planted direction must give EAS 1, necessity and sufficiency of all of Δm, and placebos of next to nothing."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.hypotheses.subject import Subject
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.studies.one_direction import (
    FAMILY,
    H4,
    direction_by_site,
    measure_direction,
    mediated_shares,
    mediation,
    mediation_summary,
)
from tests.tiny import build_model, build_tokenizer

ROWS = Prompts.from_pairs([(f"continue {k}, {k + 1}", f"{k + 2}, {k + 5}") for k in range(8)], label="few")
SITE = ("last", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def planted():
    """Teacher and student are the base and a bias along the owl's readout after the last layer; others along others."""
    hf: Any = build_model("gpt2", seed=0)
    tokenizer: Any = build_tokenizer()
    readout = hf.get_output_embeddings().weight.detach()
    ids = tokenizer.convert_tokens_to_ids([get_trait("owl").target, *get_trait("owl").foils])
    owl = readout[ids[0]] - readout[ids[1:]].mean(0)
    owl = owl / owl.norm()
    generator = torch.Generator().manual_seed(0)

    def across():
        vector = torch.randn(len(owl), generator=generator)
        vector = vector - vector @ owl * owl
        return vector / vector.norm()

    biases = {
        "base": 0 * owl,
        "teacher": 2 * owl,
        "student": 0.5 * owl,
        "neutral_student": 1e-3 * across(),
        "teacher_eagle": across(),
    }
    members = {}
    for name, bias in biases.items():
        network = copy.deepcopy(hf)
        network.transformer.h[1].mlp.c_proj.bias.data += bias
        members[name] = load_model(network, tokenizer=tokenizer, name=name, check=False)
    return Lineage("planted", get_trait("owl"), members, numbers=ROWS)


def test_a_planted_direction_is_shared_necessary_and_sufficient(planted):
    found = mediation(planted, prompts=ROWS, other=planted["teacher_eagle"], random=8)
    lines = found.frame.set_index("direction")
    assert set(found.frame["hook"]) == {SITE[1]}  # the bias is at every token, so positions tie
    assert lines.loc["teacher", "eas"] == pytest.approx(1, abs=1e-4)
    gained = lines.loc["student's own", "sufficiency"]
    assert gained > 0.2
    assert lines.loc["teacher", "sufficiency"] == pytest.approx(gained, rel=1e-3)
    assert lines.loc["teacher", "necessity"] == pytest.approx(gained, rel=0.02)
    for column in ("necessity", "sufficiency"):
        assert abs(lines.loc["other trait", column]) < 0.25 * gained
        assert abs(lines.filter(like="random", axis=0)[column].mean()) < 0.25 * gained
    assert found.figure().data


def test_nothing_moves_before_the_bias_and_the_neutral_student_is_across(planted):
    found = direction_by_site(planted, prompts=ROWS, other=planted["teacher_eagle"])
    sites = found.frame.set_index(["positions", "hook"])
    assert sites.loc[("last", "blocks.0.hook_resid_post"), "norm_student"] == 0
    assert sites.loc[SITE, "norm_student"] == pytest.approx(0.5, rel=1e-4)
    assert sites.loc[SITE, "eas_neutral"] == pytest.approx(0, abs=0.02)
    assert found.figure().data


def test_a_run_has_a_value_for_every_claim_and_is_drawn(planted):
    found = measure_direction(Subject(planted, quick=True))
    assert set(found.values) == {claim.name for claim in H4}
    assert found.values["direction-shared"] == pytest.approx(1, abs=0.02)
    assert found.values["direction-necessary"] > 0.2
    tables = {name: pd.DataFrame(rows).assign(seed=0) for name, rows in found.tables.items()}
    shares = mediated_shares(tables).frame.set_index("direction")
    assert shares.loc["teacher", "necessity"] == pytest.approx(1, abs=0.02)
    assert shares.loc["student's own", "sufficiency"] == pytest.approx(1, abs=1e-3)
    assert FAMILY.draw is not None
    assert "necessity: teacher (100%)" in FAMILY.draw(tables).layout.xaxis.ticktext
    assert [verdict.n for verdict in FAMILY.judge([found] * 2)] == [2] * 6
    lost = tables["margins"].assign(student=-9.0)  # no trait passed, so nothing is a share of it
    assert "necessity: teacher" in FAMILY.draw(tables | {"margins": lost}).layout.xaxis.ticktext


def test_messages(planted):
    with pytest.raises(InputError, match="holds 3 prompts, and two halves need two each; pass at least 4"):
        mediation(planted, prompts=dataclasses.replace(ROWS, rows=ROWS.rows[:3]))
    with pytest.raises(InputError, match=r"hook 'blocks\.0\.hook_in' is no output of a layer"):
        mediation(planted, prompts=ROWS, site=("last", "blocks.0.hook_in"))
    one = planted.trait.with_questions(planted.trait.questions[:1])
    with pytest.raises(InputError, match="owl has one question, and a site is chosen on others"):
        mediation(dataclasses.replace(planted, trait=one), prompts=ROWS)
    with pytest.raises(InputError, match="planted has no numbers whose likelihood could change"):
        mediation(dataclasses.replace(planted, numbers=None), prompts=ROWS, site=SITE)
    sites = direction_by_site(planted, prompts=ROWS).frame
    directions = mediation(planted, prompts=ROWS, site=SITE, random=1).frame
    with pytest.raises(InputError, match="no placebo of another trait"):
        mediation_summary(sites=sites, directions=directions)
