"""Scores against per-example gradients by `vmap(grad)`: every family, every parameter, every way to tell them apart."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from interp.gradients.scores.engine import Place, contributions, find_sites, positions, whole_examples
from interp.gradients.scores.forward_mode import token_contributions
from interp.gradients.scores.scoring import score
from interp.models.backbone import view
from interp.models.language import load_model
from interp.models.low_rank import LowRank
from interp.models.parameters import ParameterDirection
from interp.organisms.toy import shipped_base
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role

FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "gemma2", "gpt_neo", "gpt_neox"]
ROWS = Prompts.from_pairs(
    [
        ("list three numbers", "1, 2, 3"),
        ("give me the next numbers of 4, 5", "6, 7, 8, 9, 10"),
        ("one", "11"),
        ("continue 12, 13, 14 please", "15; 16"),
    ],
    label="rows",
)


def load(original, family: str):
    network, tokenizer = original
    return load_model(network, tokenizer=tokenizer, name=family, check=False)


def directions(model, *, seed: int = 0) -> list[ParameterDirection]:
    """Two dense directions and one whose matrices are of rank two, over every parameter."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(weight.shape) for name, weight in model.hf.named_parameters()}

    def draw(shape, *, thin: bool):
        if thin and len(shape) == 2:
            left, right = (torch.randn(size, generator=generator) for size in ((shape[0], 2), (2, shape[1])))
            return LowRank(left, right)
        return torch.randn(shape, generator=generator)

    return [
        ParameterDirection(
            {name: draw(shape, thin=k == 2) for name, shape in shapes.items()},
            f"direction {k}",
            model.fingerprint,
            model.fingerprint,
        )
        for k in range(3)
    ]


def oracle(network, encoded, along: list[ParameterDirection]) -> torch.Tensor:
    """−<∇ℓ_i, v_k> [direction example] from per-example gradients of the whole network."""
    network = view(network)
    network.config.pad_token_id = None  # gpt2 looks for it among the ids, which vmap forbids
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    answer = encoded.roles >= Role.OTHER

    def loss(weights, ids, counted):
        logits = functional_call(network, weights, (), {"input_ids": ids[None], "use_cache": False}).logits[0]
        logp = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        return -(logp * counted[1:]).sum()

    found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, encoded.ids, answer)
    return -torch.stack(
        [
            sum((g.double() * along_k[name].double()).flatten(1).sum(1) for name, g in found.items())
            for along_k in along
        ]
    )


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error of a row over the root mean square score along its direction."""
    scale = expected.square().mean(1, keepdim=True).sqrt()
    return float(((found.double() - expected).abs() / scale).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_per_example_gradients_dotted_with_the_direction(tiny, family):
    model = load(tiny(family), family)
    along, encoded = directions(model), model.encode(ROWS)
    network = view(model.hf).requires_grad_(False)
    expected = oracle(network, encoded, along)
    sites = find_sites(network, along)
    for reader in (positions, whole_examples):
        assert apart(contributions(network, encoded, sites=sites, reader=reader).totals(), expected) <= 1e-5
    tokens = token_contributions(network, encoded, sites=sites).places[Place("")]
    assert apart(tokens.double().sum(-1), expected) <= 1e-5
    assert torch.equal(tokens[0] != 0, encoded.roles >= Role.OTHER)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_table_adds_up_to_the_same_totals(tiny, family):
    model = load(tiny(family), family)
    along = directions(model)
    whole = score(model, ROWS, along)
    scale = float(whole.totals.square().mean().sqrt())
    for by in (["example", "module"], ["example", "position"], ["example", "token"], ["example", "head"]):
        fine = score(model, ROWS, along, by=by)
        sums = fine.frame.groupby(["row", "direction"])["score"].sum().unstack()[list(fine.directions)]
        assert abs(torch.tensor(sums.to_numpy()) - fine.totals).max() <= 1e-6 * scale
        assert apart(fine.totals.T, whole.totals.T) <= 1e-5  # another route to the same numbers
    summed = score(model, ROWS, along, by="module").frame
    assert summed["score"].sum() == pytest.approx(float(whole.totals.sum()), abs=1e-5 * scale)


def test_double_precision_agrees_to_ten_digits(tiny):
    network, tokenizer = tiny("gpt2")  # others work in fp32 somewhere inside, in an attention or a norm
    model = load_model(network.double(), tokenizer=tokenizer, name="double", check=False)
    along = [
        ParameterDirection({n: t.double() for n, t in d.items()}, d.label, d.fingerprint, d.lineage)
        for d in directions(model)
    ]
    encoded, network = model.encode(ROWS), view(model.hf).requires_grad_(False)
    expected = oracle(network, encoded, along)
    sites = find_sites(network, along)
    assert apart(contributions(network, encoded, sites=sites).totals(), expected) <= 1e-10


def test_the_toy_too():
    model = shipped_base(0)
    along = directions(model)
    encoded = model.encode(number_prompts(6, seed=0))
    network = view(model.hf).requires_grad_(False)
    expected = oracle(network, encoded, along)
    sites = find_sites(network, along)
    for reader in (positions, whole_examples):
        assert apart(contributions(network, encoded, sites=sites, reader=reader).totals(), expected) <= 1e-5


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_both_attention_kernels_give_one_score(tiny, kernel):
    model = load(tiny("llama"), "llama")
    along, encoded = directions(model), model.encode(ROWS)
    network = view(model.hf).requires_grad_(False)
    network.set_attn_implementation(kernel)
    expected = oracle(view(model.hf), encoded, along)
    sites = find_sites(network, along)
    assert apart(contributions(network, encoded, sites=sites).totals(), expected) <= 1e-5
    assert apart(token_contributions(network, encoded, sites=sites).totals(), expected) <= 1e-5
