"""Spectra worked out by hand, planted directions found in both storage orders, and chance for random updates."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from interp.core.runs import InputError
from interp.logits.spectra import _row, spectrum, token_directions
from interp.models.decomposition import decompose
from interp.models.language import load_model
from interp.models.low_rank import LowRank
from interp.models.seam import Unembedding
from interp.prompts.traits import get_trait
from tests.logits.pairs import pair, perturbed

OWL = get_trait("owl")


def unembedding(W_U, weight=None, kind: Any = "none"):
    d, vocab = W_U.shape
    weight = torch.ones(d) if weight is None else weight
    return Unembedding(W_U, torch.zeros(vocab), kind, weight, torch.zeros(d), 0.0)


def planted(tiny, family, changes) -> Any:
    """A member of a tiny family whose weights differ from its start's by `changes`, name -> function of the base."""
    hf, tokenizer = tiny(family)
    base = load_model(hf, tokenizer=tokenizer)
    other = copy.deepcopy(hf)
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for name, change in changes.items():
            parameters[name].add_(change(base).float())
    return pair(hf, other, tokenizer)


def owl_direction(model):
    return token_directions(model.unembedding(), [model.tokenizer.convert_tokens_to_ids("owl")])[0]


def noise(size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_effective_rank_by_hand():
    assert decompose(torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0]))).effective_rank == pytest.approx(3.0)
    assert decompose(torch.outer(torch.ones(3), torch.arange(4.0))).effective_rank == pytest.approx(1.0)
    # energies 9/10 and 1/10: exp(-(0.9 log 0.9 + 0.1 log 0.1))
    parts = decompose(torch.diag(torch.tensor([3.0, 1.0])))
    assert parts.effective_rank == pytest.approx(math.exp(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1))))
    assert parts.values.tolist() == pytest.approx([3.0, 1.0])
    assert parts.energies.tolist() == pytest.approx([0.9, 0.1])


def test_rounding_does_not_count_as_a_direction():
    parts = decompose(torch.diag(torch.tensor([1.0, 0.5, 1e-6])))
    assert [parts.directions(top) for top in (1, 2, 3)] == [1, 2, 2]


def test_low_rank_sketch_equals_the_whole_decomposition():
    delta = noise((300, 8)) @ noise((8, 200), seed=1)
    parts = decompose(delta)
    assert parts.values.shape == (64,)
    assert torch.allclose(parts.values[:8], torch.linalg.svdvals(delta)[:8], rtol=1e-9)
    assert torch.allclose(parts.left[:, :8] * parts.values[:8] @ parts.right[:, :8].T, delta, atol=1e-9)
    assert decompose(noise((300, 200))).values.shape == (200,)


def test_factors_are_decomposed_as_their_product():
    factors = LowRank(noise((30, 3)), noise((3, 20), seed=1))
    parts, whole = decompose(factors), decompose(factors.dense())
    assert torch.allclose(parts.values, whole.values[:3], rtol=1e-9)
    assert parts.effective_rank == pytest.approx(whole.effective_rank, rel=1e-9)
    assert torch.allclose(parts.left * parts.values @ parts.right.T, factors.dense(), atol=1e-9)


def test_sketch_leaves_the_global_random_state_alone(fresh_seeds):
    decompose(noise((300, 8)) @ noise((8, 200), seed=1))


def test_token_direction_by_hand():
    # columns (1, 0), (0, 1), (0, 0): mean (1/3, 1/3); column 0 less the mean is (2, -1)/3, times the weight (1, 2)
    W_U = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = token_directions(unembedding(W_U, torch.tensor([1.0, 2.0]), "rms"), [0])[0]
    assert found.tolist() == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)])
    # LayerNorm cannot see the mean of the residual stream: (2, -1)/3 less its own mean is (1/2, -1/2)
    assert token_directions(unembedding(W_U, kind="layer"), [0])[0].tolist() == pytest.approx(
        [1 / math.sqrt(2), -1 / math.sqrt(2)]
    )


@pytest.mark.parametrize(
    ("family", "name", "side"),
    [
        ("llama", "model.layers.1.self_attn.o_proj.weight", "writes"),
        ("llama", "model.layers.0.mlp.down_proj.weight", "writes"),
        ("llama", "model.layers.0.self_attn.q_proj.weight", "reads"),
        ("llama", "model.embed_tokens.weight", "writes"),
        ("llama", "lm_head.weight", "reads"),
        ("gpt2", "transformer.h.1.attn.c_proj.weight", "writes"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "reads"),
        ("gpt_neo", "transformer.h.1.attn.attention.out_proj.weight", "writes"),
        ("gpt_neox", "gpt_neox.layers.1.attention.dense.weight", "writes"),
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value.weight", "reads"),
    ],
)
def test_planted_direction_is_recovered(tiny, family, name, side):
    def change(base):
        shape, owl = base.parameters()[name].shape, owl_direction(base)
        stored_output_first = not ("embed" in name or family == "gpt2")
        first = (side == "writes") == stored_output_first
        return torch.outer(owl, noise(shape[1])) if first else torch.outer(noise(shape[0]), owl)

    member = planted(tiny, family, {name: change})
    row: Any = spectrum(member, OWL).frame.set_index("matrix").loc[name]
    base = member.start
    assert row["side"] == side
    assert row["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert row["directions"] == 1
    assert row["energy_top"] == pytest.approx(1)
    assert row["sigma_1"] == pytest.approx(row["norm"], rel=1e-4)
    assert row["sigma_2"] < 1e-4 * row["sigma_1"]
    assert row["overlap_target"] == pytest.approx(1, abs=1e-4)
    assert row["overlap_chance"] == 1 / 32
    assert row["foil_rank"] == 1 / 10
    foils = token_directions(base.unembedding(), base.tokenizer.convert_tokens_to_ids(list(OWL.foils)))
    assert row["overlap_foils"] == pytest.approx(
        float((foils @ owl_direction(base)).square().mean()), abs=1e-4
    )


def test_norms_layers_and_notes(tiny):
    name, size = "model.layers.1.self_attn.o_proj.weight", 0.5
    changes = {
        name: lambda base: size * torch.eye(32),
        "model.layers.0.input_layernorm.weight": lambda base: torch.full((32,), 0.25),
    }
    member = planted(tiny, "llama", changes)
    result: Any = spectrum(member, top=3)
    row: Any = result.frame.iloc[0]
    assert result.notes[0].startswith("1 of 16 matrices changed")
    assert (result.frame["norm"][1:] == 0).all()
    assert (result.frame["directions"][1:] == 0).all()
    assert result.frame["overlap_numbers"][1:].isna().all()
    assert len(result.figure().data[0].z) == 1
    assert (row["matrix"], row["layer"]) == (name, 1)
    assert row["norm"] == pytest.approx(size * math.sqrt(32), rel=1e-5)
    assert row["relative_norm"] == pytest.approx(row["norm"] / float(member.start.parameters()[name].norm()))
    assert row["effective_rank"] == pytest.approx(32, rel=1e-4)
    assert row["energy_top"] == pytest.approx(3 / 32, rel=1e-4)
    assert row[["sigma_1", "sigma_2", "sigma_3"]].tolist() == pytest.approx([size] * 3, rel=1e-4)
    assert "overlap_target" not in row
    assert f"norms and biases changed by {0.25 * math.sqrt(32):.3g}" in result.notes[0]


def test_random_updates_overlap_at_chance(tiny):
    hf, tokenizer = tiny("llama")
    tokens = {"numbers": token_directions(load_model(hf, tokenizer=tokenizer).unembedding(), range(7, 47))}
    rows = [_row(decompose(noise((32, 48), seed)), tokens, side="writes", top=4) for seed in range(100)]
    overlaps = np.array([row["overlap_numbers"] for row in rows])
    assert rows[0]["overlap_chance"] == 4 / 32
    assert overlaps.mean() == pytest.approx(4 / 32, abs=4 * overlaps.std() / 10)
    assert overlaps.std() / 10 < 0.01


def test_target_rank_among_foils_is_uniform_under_random_updates(tiny):
    hf, tokenizer = tiny("llama")
    base = load_model(hf, tokenizer=tokenizer)
    ids = base.tokenizer.convert_tokens_to_ids(["owl", *OWL.foils])
    rows = token_directions(base.unembedding(), ids)
    tokens = {"target": rows[:1], "foils": rows[1:]}
    ranks = [
        _row(decompose(noise((32, 48), seed)), tokens, side="writes", top=4)["foil_rank"]
        for seed in range(400)
    ]
    assert np.mean([rank <= 0.2 for rank in ranks]) == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_every_matrix_of_a_family(tiny, family):
    hf, tokenizer = tiny(family)
    result: Any = spectrum(pair(hf, perturbed(hf), tokenizer), OWL)
    matrices = [name for name, weight in hf.named_parameters() if weight.dim() == 2]
    assert sorted(result.frame["matrix"]) == sorted(matrices)
    assert result.frame["side"].notna().all()
    assert result.frame["norm"].is_monotonic_decreasing
    assert result.frame["overlap_target"].between(0, 1).all()
    heat = result.figure().data[0]
    assert np.array(heat.z).shape == (len(matrices), 4)


def test_messages(tiny):
    hf, tokenizer = tiny("llama")
    with pytest.raises(InputError, match="has no start to be measured from"):
        spectrum(load_model(hf, tokenizer=tokenizer))
    with pytest.raises(InputError, match="top 0 leaves no direction"):
        spectrum(load_model(hf, tokenizer=tokenizer), top=0)


def test_a_member_changed_in_its_norms_alone(tiny):
    result: Any = spectrum(planted(tiny, "llama", {"model.norm.weight": lambda base: torch.ones(32)}), OWL)
    assert result.notes[0].startswith("0 of 16 matrices changed; norms and biases changed by 5.66")
    assert result.frame["effective_rank"].isna().all()
    assert len(result.figure().data[0].z) == 0


def test_what_a_neutral_member_changed_is_taken_off(tiny):
    """member = base + A + B and minus = base + B in one matrix: the spectrum is that of A, by numpy."""
    name = "model.layers.0.mlp.down_proj.weight"
    hf, tokenizer = tiny("llama")
    base = load_model(hf, tokenizer=tokenizer, name="base")
    size = dict(hf.named_parameters())[name].shape
    one, both = (noise(size, seed=seed).float() for seed in (1, 2))
    members = []
    for change in (one + both, both):
        network = copy.deepcopy(hf)
        with torch.no_grad():
            network.get_parameter(name).add_(0.1 * change)
        made = load_model(network, tokenizer=tokenizer, name=f"member {len(members)}")
        members.append(dataclasses.replace(made, start=base))
    found = spectrum(members[0], minus=members[1])
    line = found.frame.set_index("matrix").loc[name]
    assert line["norm"] == pytest.approx(0.1 * float(np.linalg.norm(one.numpy())), rel=1e-4)
    assert found.label == "member 0 − member 1, spectrum of the update"
    assert (found.frame["norm"] > 1e-4).sum() == 1
