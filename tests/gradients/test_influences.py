"""Influence by bergson's pipelines against gradients of single rows by torch, in fp64 and without bergson's code."""

from __future__ import annotations

import copy
import logging
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import interp
from interp.core.runs import InputError
from interp.gradients.influences import UNITS, influence
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait, make_trait

needs_bergson = pytest.mark.skipif(
    find_spec("bergson") is None, reason="bergson is not installed (the extra of that name)"
)
DAMPED = 0.1  # of the mean eigenvalue, in both methods
OWL = get_trait("owl")


@pytest.fixture(scope="module")
def base():
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    return interp.load_model(network, tokenizer=build_tokenizer(), name="base", check=False)


@pytest.fixture(scope="module")
def rows():
    return number_prompts(24, seed=1, count=5)


class Network:
    """A network in fp64 (its norms are in fp32 even so) and its linear layers below the unembedding."""

    def __init__(self, model):
        self.network = copy.deepcopy(model.hf).double()
        modules = self.network.base_model.named_modules()
        self.layers = {name: each for name, each in modules if type(each).__name__ in ("Linear", "Conv1D")}

    def loss(self, ids, labels, *, drawn=False):
        logits = self.network(input_ids=ids[None]).logits[0, :-1]
        labels = logits.argmax(-1).masked_fill(labels[1:] == -100, -100) if drawn else labels[1:]
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def gradients(self, inputs, counted):
        """By layer [row, out, in]."""
        weights = [module.weight for module in self.layers.values()]
        found = [torch.autograd.grad(self.loss(*row), weights) for row in asked(inputs, counted)]
        return dict(zip(self.layers, map(torch.stack, zip(*found, strict=True)), strict=True))

    def drawn(self, inputs):
        """By layer a pair per row, inputs and the loss's slopes by outputs, the last token left out."""
        read, found = {}, {name: [] for name in self.layers}
        for name, module in self.layers.items():
            module.register_forward_hook(lambda _m, a, out, name=name: read.update({name: (a[0], out)}))
        for row in asked(inputs, "answer+end"):
            loss = self.loss(*row, drawn=True)
            slopes = torch.autograd.grad(loss, [out for _, out in read.values()])
            for (name, (a, _)), slope in zip(read.items(), slopes, strict=True):
                found[name].append((a[0, :-1].detach(), slope[0, :-1]))
        return found


def asked(inputs, counted):
    labels = inputs.ids.masked_fill(~inputs.at(counted), -100)
    return [(ids[kept], own[kept]) for ids, own, kept in zip(inputs.ids, labels, inputs.mask, strict=True)]


def query(model, trait=OWL):
    return model.encode(trait.prompts(trait.target))


def scored(model, rows, **given):
    return influence(model, rows, OWL, **given).frame["score"].to_numpy()


def products(left, right):
    return sum(torch.einsum("noi,oi->n", left[name], right[name]) for name in left).numpy()


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=1e-4)


@needs_bergson
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_without_a_matrix_it_is_the_product_of_gradients(tiny, family):
    hf, tokenizer = tiny(family, 0)
    model = interp.load_model(hf, tokenizer=tokenizer, name=family, check=False)
    rows = Prompts.from_pairs([("continue the list", "1, 2, 3"), ("go on", "7, 5"), ("give me numbers", "9")])
    own = Network(model)
    mean = {name: each.mean(0) for name, each in own.gradients(query(model), "answer").items()}
    found = influence(model, rows, OWL, method="dot").frame
    close(found["score"], products(own.gradients(model.encode(rows), "answer+end"), mean))
    assert found["tokens"].tolist() == [6, 4, 2]
    assert found["row"].tolist() == [0, 1, 2]


@needs_bergson
@pytest.mark.parametrize("method", UNITS)
def test_rows_that_answer_with_the_word_score_above_zero_and_the_rest_below_them(base, rows, method):
    found = scored(base, Prompts((*OWL.prompts("owl").rows, *rows.rows), label="both"), method=method)
    assert found[:6].min() > 0
    assert found[:6].min() > np.abs(found[6:]).max()


@needs_bergson
def test_ekfac_is_the_formula_in_the_eigenbasis(base, rows, monkeypatch):
    """Labels are the likeliest here, so that nothing is drawn; λ = mean over rows of (Q_Gᵀ ∇ Q_A)²."""
    monkeypatch.setattr(torch, "multinomial", lambda p, **_: p.argmax(-1, keepdim=True))
    own, inputs, expected = Network(base), base.encode(rows), 0.0
    mine, theirs = own.gradients(query(base), "answer"), own.gradients(inputs, "answer+end")
    for name, pairs in own.drawn(inputs).items():
        q_a, q_g = (torch.linalg.eigh(x.T @ x)[1] for x in map(torch.cat, zip(*pairs, strict=True)))
        eigenvalues = torch.stack([q_g.T @ g.T @ a @ q_a for a, g in pairs]).square().mean(0)
        turned = q_g.T @ mine[name].mean(0) @ q_a / (eigenvalues + DAMPED * eigenvalues.mean())
        expected += torch.einsum("noi,oi->n", theirs[name], q_g @ turned @ q_a.T).numpy()
    close(scored(base, rows, method="ekfac"), expected)


@needs_bergson
def test_trackstar_is_the_cosine_of_whitened_projections(base, rows):
    """Only the matrices that project are bergson's."""
    from bergson.collector.collector import create_module_projection_matrix as matrix

    own = Network(base)
    kinds = (torch.float32, torch.device("cpu"), "rademacher", "jl", None)
    parts = []
    mine, theirs = own.gradients(query(base), "answer"), own.gradients(base.encode(rows), "answer+end")
    for name in own.layers:
        left, right = (
            matrix(name, side, 16, size, *kinds).double()
            for side, size in zip(("left", "right"), mine[name].shape[1:], strict=True)
        )
        pair = [(left @ each[name] @ right.T).flatten(1) for each in (mine, theirs)]
        values, vectors = torch.linalg.eigh(pair[1].T @ pair[1] / len(rows))
        root = vectors * (values.clamp_min(0) + DAMPED * values.clamp_min(0).mean()).rsqrt() @ vectors.T
        parts.append([each @ root for each in pair])
    mine, theirs = (torch.nn.functional.normalize(torch.cat(side, 1)) for side in zip(*parts, strict=True))
    close(scored(base, rows, method="trackstar"), (theirs @ mine.mean(0)).numpy())


@needs_bergson
@pytest.mark.parametrize("method", UNITS)
def test_a_row_without_an_answer_scores_nothing_and_changes_no_other(base, rows, method):
    unanswered = Prompts.from_pairs([("numbers: 1", "")]).rows
    mixed = Prompts((*rows.rows[:7], *unanswered, *rows.rows[7:]))
    found = scored(base, mixed, method=method)
    assert found[7] == 0
    assert (np.delete(found, 7) == scored(base, rows, method=method)).all()


@needs_bergson
def test_draws_come_from_the_seed_and_nothing_else_is_touched(base, rows):
    root, state = logging.getLogger(), torch.get_rng_state()
    handlers = root.handlers[:]
    one, same, other = (scored(base, rows, seed=seed) for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()
    assert root.handlers == handlers
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "more"),
    [("bergson", ""), pytest.param("torchopt", r" \(torchopt is missing\)", marks=needs_bergson)],
)
def test_what_is_not_installed_is_said_with_the_way_to_it(base, rows, monkeypatch, name, more):
    for each in [each for each in sys.modules if each.partition(".")[0] in ("bergson", "torchopt")]:
        monkeypatch.delitem(sys.modules, each)
    monkeypatch.setitem(sys.modules, name, None)
    said = (
        f"bergson, which is not installed{more}; run "
        + r"pip install -e '\.\[bergson\]' in the clone, or as docs"
    )
    with pytest.raises(InputError, match=said):
        influence(base, rows, OWL)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "ekfak"}, "Method 'ekfak' is unknown; nearest: ekfac"),
        ({"rows": Prompts.from_pairs([("wie geht es dir", "sehr gut")])}, "unknown to the tokenizer"),
        ({"rows": Prompts.from_pairs([("numbers: 1", "")])}, "holds an answer, so that none has a gradient"),
        ({"trait": make_trait("teapot", ["cat"], category="animal")}, "base cannot write 'teapot'"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(base, rows, given, said):
    with pytest.raises(InputError, match=said):
        influence(base, **{"rows": rows, "trait": OWL} | given)


@needs_bergson
@pytest.mark.parametrize(
    ("place", "scale", "said"),
    [
        ("model.layers.0.mlp.down_proj", 1e38, "broken scores row 1 with nan by ekfac; check its weights"),
        ("model.layers.1.self_attn.v_proj", 1e30, r"bergson refuses .* NaNs or"),
    ],
)
def test_weights_that_overflow_are_refused(rows, place, scale, said):
    network = build_network(World(d_model=16, d_mlp=24), seed=0).eval()
    with torch.no_grad():
        network.get_submodule(place).weight *= scale
    broken = interp.load_model(network, tokenizer=build_tokenizer(), name="broken", check=False)
    with pytest.raises(InputError, match=said):
        influence(broken, rows, OWL)
