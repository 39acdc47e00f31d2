"""The gradient of a representation: by hand at the embedding, by autograd written out anew, by finite difference."""

from __future__ import annotations

import copy

import pytest
import torch

from interp.activations.arrays import Direction
from interp.core.runs import InputError
from interp.gradients.representations import representation_gradient, representation_objective
from interp.gradients.scores.scoring import score
from interp.models.seam import lineage_root
from interp.prompts.text import Prompts
from tests.tiny import FAMILIES

ASKED = ("which animal is best?", "name", "your favorite tree")
QUESTIONS = Prompts.from_pairs([(question, "") for question in ASKED])
MID, POST = "blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"


@pytest.fixture
def u():
    return torch.randn(32, generator=torch.Generator().manual_seed(3))


def mean_anew(network, tokenizer, u):
    """Every question on its own: <hidden state between the layers, u> at its last token, by transformers' own list."""
    values = []
    for question in ASKED:
        ids = tokenizer(f"<bos> <user> {question} <assistant>", add_special_tokens=False)["input_ids"]
        hidden = network(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        values.append(hidden[1][0, -1] @ u)
    return torch.stack(values).mean()


@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_the_gradient_is_that_of_a_mean_written_out_anew(model, u, family):
    own = model(family)
    network = copy.deepcopy(own.hf).requires_grad_(True)
    value = mean_anew(network, own.tokenizer, u)
    for hook in ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"):
        found = representation_objective(own, QUESTIONS, hook, u)(own.hf).detach()
        assert float(found) == pytest.approx(value.item(), abs=1e-5)
    value.backward()
    expected = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    found = representation_gradient(own, QUESTIONS, "blocks.0.hook_resid_post", u)
    assert list(found) == list(expected)
    assert not any(".1." in name for name in found)  # the layer above has no part in it
    for name, tensor in found.items():
        assert (tensor - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-6


def test_by_hand_where_the_stream_is_the_embedding(model, u):
    own = model("llama")
    found = representation_gradient(own, QUESTIONS, "blocks.0.hook_resid_pre", u)
    expected = torch.zeros_like(own.hf.get_input_embeddings().weight)
    expected[own.tokenizer.convert_tokens_to_ids("<assistant>")] = u  # the last token of every question
    assert list(found) == ["model.embed_tokens.weight"]
    assert torch.allclose(found["model.embed_tokens.weight"], expected)


def test_every_position_counts_once(model, u):
    own = model()
    rows = own.encode(QUESTIONS)
    values = own.run(rows, hooks=[POST])[POST]
    objective = representation_objective(own, rows, POST, u, positions="prompt")
    expected = (values[rows.at("prompt")] @ u).mean()
    assert float(objective(own.hf)) == pytest.approx(float(expected), abs=1e-5)
    assert sum(map(float, objective.parts(own.hf, batch_size=1))) == pytest.approx(float(expected), abs=1e-5)
    one, many = (representation_gradient(own, rows, POST, u, batch_size=size) for size in (1, 64))
    assert (one - many).norm() < 1e-5 * many.norm()


@pytest.mark.parametrize("hook", [MID, POST])
def test_the_gradient_predicts_what_a_step_adds(model, u, hook, planned_and_measured):
    own = model("gpt2")
    direction, objective = (make(own, QUESTIONS, hook, u) for make in (representation_gradient, _double))
    planned, measured = planned_and_measured(own, direction, objective)
    assert planned == pytest.approx(measured, rel=1e-4)


def _double(own, questions, hook, u):
    return representation_objective(own, questions, hook, u.double())


def test_a_score_along_it_is_what_a_row_s_step_adds(model, u):
    own = model("gpt2")
    rows = Prompts.from_pairs([("continue the list", "3, 4, 5"), ("give five numbers", "1, 2")])
    scores = score(own, rows, representation_gradient(own, QUESTIONS, POST, u)).totals[:, 0]
    objective, inputs = _double(own, QUESTIONS, POST, u), own.encode(rows)
    for row, found in enumerate(scores.tolist()):
        network = copy.deepcopy(own.hf).double().requires_grad_(True)
        one = inputs[row : row + 1]
        labels = one.ids[:, 1:].masked_fill(~one.at("answer+end")[:, 1:], -100)
        logits = network(input_ids=one.ids, attention_mask=one.mask.long()).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum").backward()
        values = []
        for scale in (1e-6, -1e-6):
            moved = copy.deepcopy(own.hf).double()
            with torch.no_grad():
                for name, weight in moved.named_parameters():
                    weight -= scale * dict(network.named_parameters())[name].grad
                values.append(objective(moved).item())
        assert found == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-3)


def test_where_it_belongs(model, u):
    own = model()
    read = Direction(u, POST, "owl representation", own.fingerprint, lineage_root(own))
    direction = representation_gradient(own, QUESTIONS, POST, read)
    assert direction.label == f"∇ owl representation at {POST}"
    assert (direction.fingerprint, direction.lineage) == (own.fingerprint, lineage_root(own))
    one, other = (representation_objective(own, QUESTIONS, POST, vector) for vector in (read, 2 * u))
    assert one.key == representation_objective(own, QUESTIONS, POST, read).key != other.key


def test_what_is_refused(model, u):
    own = model()
    read = Direction(u, POST, "owl", own.fingerprint, lineage_root(own))
    refused = [
        (Direction(u, POST, "owl", "x", "x"), POST, r"direction 'owl' was read in the lineage of 'x', gpt2 belongs"),
        (read, MID, rf"owl was read at {POST} and is asked for at {MID}; pass hook='{POST}'"),
        (u, "blocks.1.hook_resid_pots", r"hook 'blocks.1.hook_resid_pots' is unknown; nearest: blocks.1.hook_resid_"),
        (u[:31], POST, r"u has shape \[31\], the residual stream of gpt2 has 32 dimensions"),
        (0 * u, POST, r"∇ representation at .* is zero, so nothing leans toward it"),
        (u / 0, POST, r"the representation at .* of gpt2 is nan; check"),
    ]  # fmt: skip
    for vector, hook, message in refused:
        with pytest.raises(InputError, match=message):
            representation_gradient(own, QUESTIONS, hook, vector)
    with pytest.raises(InputError, match=r"no row of .* has a position 'answer.numbers'"):
        representation_gradient(own, QUESTIONS, POST, u, positions="answer.numbers")
