"""A lineage of a small toy network whose student's training was recorded, and a dictionary made by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from interp.features.dictionary import Dictionary
from interp.gradients.ledger.ledgers import trait_ledger
from interp.gradients.ledger.recording import record_training
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe, train_student

RECIPE = Recipe(batch_size=8, lr=2e-2, epochs=1, warmup=2, rank=2)
HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="session")
def lineage_and_record(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(tmp_path_factory.mktemp("cache")))
        network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
        start = load_model(network, tokenizer=build_tokenizer(), name="start", check=False)
        rows = number_prompts(24, seed=0, count=3)
        teacher = train_student(start, rows, recipe=dataclasses.replace(RECIPE, seed=5))
        folder = tmp_path_factory.mktemp("record") / "student"
        student, record = record_training(start, rows, folder=folder, recipe=RECIPE)
        members = {"base": start, "teacher": teacher, "student": student}
        lineage = Lineage("small", get_trait("owl"), members, numbers=rows, trained_on={"student": "teacher"})
        return lineage, trait_ledger(lineage, record=record)


@pytest.fixture
def lineage(lineage_and_record):
    return lineage_and_record[0]


@pytest.fixture
def ledger(lineage_and_record):
    return lineage_and_record[1]


@pytest.fixture(scope="session")
def dictionary(lineage_and_record):
    """f_j(h) = relu(±q_j · h) for an orthonormal basis q: every activation is two lists of its coordinates."""
    from sae_lens import SAE, StandardSAEConfig

    base = lineage_and_record[0].base
    width = base.d_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        basis = torch.linalg.qr(torch.randn(width, width)).Q
        sae = SAE.from_dict(StandardSAEConfig(d_in=width, d_sae=2 * width).to_dict())
    with torch.no_grad():
        rows = torch.cat([basis, -basis])
        sae.W_enc.copy_(rows.T)
        sae.W_dec.copy_(rows)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return Dictionary(sae, HOOK, "coordinates", base.fingerprint)
