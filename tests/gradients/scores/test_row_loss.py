"""The unembedding a few rows at a time gives the scores it gives at once, and holds no more logits than it says."""

import pytest
import torch
from torch import nn

import interp.gradients.scores.row_loss as loss_module
from interp.gradients.scores.engine import contributions, find_sites, positions, whole_examples
from interp.gradients.scores.row_loss import row_losses
from interp.gradients.scores.scoring import score
from interp.prompts.text import Prompts
from tests.gradients.rows import along, bare, near
from tests.gradients.scores.test_exactness import apart, directions, load, oracle

ROWS = Prompts.from_pairs(
    [(" ".join(["list"] * (1 + i % 3)), ", ".join(["1", "2", "3"] * (1 + i % 4))) for i in range(7)]
)


@pytest.fixture(params=["llama", "gemma2", "gpt2"])
def model(request, tiny):
    """Untied; tied with a softcap; tied with transposed matrices."""
    return load(tiny(request.param), request.param)


@pytest.fixture
def few(model, monkeypatch):
    """How many logits every pass through the unembedding held."""
    held: list[int] = []
    made = loss_module.own_logits

    def counted(network, hidden):
        logits = made(network, hidden)
        held.append(logits.numel())
        return logits

    monkeypatch.setattr(loss_module, "own_logits", counted)
    return held


@pytest.mark.parametrize("reader", [positions, whole_examples])
def test_scores_are_those_of_every_row_alone(model, few, reader, monkeypatch):
    network, own, encoded = bare(model), directions(model), model.encode(ROWS)
    sites = find_sites(network, own)
    at_once = contributions(network, encoded, sites=sites, reader=reader)
    whole = max(few)
    monkeypatch.setattr(loss_module, "LOGITS", whole // 3)
    few.clear()
    found = contributions(network, encoded, sites=sites, reader=reader)
    assert len(few) == 4
    assert max(few) <= whole // 3
    assert apart(found.totals(), oracle(network, encoded, own)) <= 1e-5
    assert near(found.loss, row_losses(network, encoded)[0], 1e-6)
    assert found.places.keys() == at_once.places.keys()
    for place, values in found.places.items():
        assert values.shape == at_once.places[place].shape
        assert near(values, at_once.places[place], 1e-5), place


def test_a_direction_of_the_unembedding_alone_needs_no_gradient_below(tiny, few, model, monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS", 1)
    network, encoded = bare(model), model.encode(ROWS)
    head = network.get_output_embeddings()
    owned = next(name for name, weight in network.named_parameters() if weight is head.weight)
    direction = along(model, {owned: directions(model)[0][owned]})
    sites = [site for site in find_sites(network, [direction]) if site.module is head]
    found = contributions(network, encoded, sites=sites)
    untied = bare(model)
    untied.get_output_embeddings().weight = nn.Parameter(head.weight.detach().clone())
    losses = row_losses(untied, encoded)[0]
    weight = untied.get_output_embeddings().weight
    expected = [
        -(torch.autograd.grad(loss, weight, retain_graph=True)[0] * direction[owned]).sum() for loss in losses
    ]
    assert near(found.totals()[0], torch.stack(expected))
    assert len(few) > len(ROWS)


def test_a_cosine_sees_all_rows_of_a_module_at_once(model, monkeypatch, tmp_path):
    own = directions(model)[0]
    expected = score(model, ROWS, own, cosine=True).frame["cosine"].to_numpy()
    monkeypatch.setattr(loss_module, "LOGITS", 1)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    assert near(
        torch.tensor(score(model, ROWS, own, cosine=True).frame["cosine"].to_numpy()), torch.tensor(expected)
    )
