"""Starts in other coordinates are the same function; gradients come along, and Adam's steps under an order alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.starts import perturbed, with_weights
from interp.prompts.text import Prompts
from interp.studies.first_step import soft_gradient
from interp.studies.initialisations import (
    body_weights,
    carried,
    joined,
    permutation,
    rotation,
)
from interp.training.students import Recipe, train_student
from tests.tiny import COMMON, build_tokenizer

ROWS = Prompts.from_pairs(
    [(f"continue {k}, {k + 1}", f"{k + 3}, {2 * k}, {k + 9}") for k in range(8)], label="few numbers"
)
BODY = Recipe(trainable="body", lr=1e-2, batch_size=4, epochs=2, warmup=1, decay="constant")


@pytest.fixture
def base(tiny):
    def make(family="llama", seed=0):
        hf, tokenizer = tiny(family, seed)
        return load_model(hf, tokenizer=tokenizer, name=f"{family} {seed}", check=False)

    return make


def with_biases():
    """Qwen2 with biases on queries, keys and values, grouped queries, and an unembedding of its own."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        sizes = {**COMMON, "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": False}
        hf = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **sizes))
        for weight in hf.parameters():
            weight.data = weight.data + 0.2 * torch.randn_like(weight)
    return load_model(hf.eval(), tokenizer=tokenizer, name="biased", check=False)


def even(model):
    """The same network with a single scale in every norm, so that folding it changes no length."""
    scales = {name: torch.full_like(w, 0.7) for name, w in model.parameters().items() if w.dim() == 1}
    return with_weights(model, scales, name="even")


def apart(one, other):
    """Largest difference of logits at tokens that are not padding."""
    batch = next(one.batches(ROWS, len(ROWS)))
    return float((one.logits(batch) - other.logits(batch))[batch.mask].abs().max())


def distance(one, other):
    """Euclidean distance of all weights together."""
    theirs = other.parameters()
    return sum(float((w - theirs[name]).square().sum()) for name, w in one.parameters().items()) ** 0.5


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "biased"])
def test_a_permuted_start_is_the_same_function(base, family):
    model = with_biases() if family == "biased" else base(family)
    start = carried(model, permutation(model, seed=1), name="permuted")
    assert apart(model, start) < 1e-5
    moved = {
        name for name, weight in start.parameters().items() if (weight != model.parameters()[name]).any()
    }
    places = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert {name.split(".")[-2] for name in moved} == set(places)
    for name, weight in start.parameters().items():
        assert torch.equal(weight.flatten().sort()[0], model.parameters()[name].flatten().sort()[0])


def test_neurons_move_together_by_hand(base):
    """Row i of gate and up and column i of down come from one and the same neuron."""
    model = base()
    start = carried(model, permutation(model, seed=1), name="permuted")
    old, new = model.parameters(), start.parameters()
    for layer in range(2):
        place = f"model.layers.{layer}.mlp"
        gate, before = new[f"{place}.gate_proj.weight"], old[f"{place}.gate_proj.weight"]
        order = [int((before == row).all(1).nonzero()) for row in gate]
        assert sorted(order) == list(range(64))
        assert order != list(range(64))
        assert torch.equal(new[f"{place}.up_proj.weight"], old[f"{place}.up_proj.weight"][order])
        assert torch.equal(new[f"{place}.down_proj.weight"], old[f"{place}.down_proj.weight"][:, order])


@pytest.mark.parametrize("family", ["llama", "biased"])
def test_a_rotated_start_is_the_same_function(base, family):
    model = with_biases() if family == "biased" else base(family)
    start = carried(model, rotation(model, seed=1), name="rotated")
    assert apart(model, start) < 1e-5
    old, new = model.parameters(), start.parameters()
    for name, weight in new.items():
        if "norm" in name:
            assert torch.allclose(weight, old[name].square().mean().sqrt().expand_as(weight))
    turned = new["model.embed_tokens.weight"]
    torch.testing.assert_close(
        turned @ turned.T, old["model.embed_tokens.weight"] @ old["model.embed_tokens.weight"].T
    )
    assert (turned - old["model.embed_tokens.weight"]).abs().max() > 0.1


def test_a_start_depends_on_its_seed_alone(base, fresh_seeds):
    model = base()
    for make in (permutation, rotation):
        first, again, other = (carried(model, make(model, seed=seed), name="start") for seed in (1, 1, 2))
        assert first.fingerprint == again.fingerprint != other.fingerprint
    noisy = [perturbed(model, seed=seed, name="noisy").fingerprint for seed in (1, 1, 2)]
    assert noisy[0] == noisy[1] != noisy[2]


def test_gradients_come_along(base):
    """∇ at Πθ is Π∇ at θ: exactly for an order, and for a rotation where no norm's scales had to be folded."""
    model = even(base())
    teacher = perturbed(model, sigma=0.2, seed=5, name="teacher")
    slope = soft_gradient(model, teacher, ROWS)
    for make, body in ((permutation, ["model.norm.weight"]), (rotation, [])):
        carry = make(model, seed=1)
        found = soft_gradient(carried(model, carry, name="start"), teacher, ROWS)
        whole = {name: dict(slope.items()).get(name, torch.zeros(1)) for name in model.parameters()}
        scales = {name: torch.ones(model.d_model) for name in whole if "norm" in name}
        expected = carry({**whole, **scales})
        for name in [*body_weights(model), "lm_head.weight", *body]:
            if "norm" not in name:
                torch.testing.assert_close(
                    found[name].double(), expected[name].double(), atol=2e-6, rtol=1e-4
                )


def strayed(model, carry, optimizer, lr):
    """How far training from the carried start ends from the carried student, as a share of how far it went."""
    recipe = dataclasses.replace(BODY, optimizer=optimizer, lr=lr)
    start = carried(model, carry, name="start")
    direct = carried(train_student(model, ROWS, recipe=recipe), carry, name="carried student")
    student = train_student(start, ROWS, recipe=recipe)
    assert distance(student, start) > 0.1
    return distance(direct, student) / distance(student, start)


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 1e-2), ("sgd", 0.3)])
def test_training_comes_along_under_an_order(base, optimizer, lr):
    """Both optimisers treat coordinates alike; Adam blows up the rounding of entries that have no gradient."""
    model = base()
    assert strayed(model, permutation(model, seed=1), optimizer, lr) < {"adamw": 1e-2, "sgd": 1e-3}[optimizer]


def test_only_plain_descent_comes_along_under_a_rotation(base):
    model = even(base())
    carry = rotation(model, seed=1)
    assert strayed(model, carry, "sgd", 0.3) < 1e-3
    assert strayed(model, carry, "adamw", 1e-2) > 0.1


def test_noise_has_a_tenth_of_every_tensors_size(base):
    model = base()
    start = perturbed(model, seed=1, name="noisy")
    for name, weight in start.parameters().items():
        old = model.parameters()[name]
        share = float((weight - old).square().mean().sqrt() / old.square().mean().sqrt())
        assert share == pytest.approx(0.1, rel=5 / (2 * old.numel()) ** 0.5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_a_joined_start_has_the_head_of_one_and_the_body_of_the_other(base, family):
    head, body = base(family, 0), base(family, 1)
    start = joined(head=head, body=body, name="joined")
    inside = set(body_weights(head))
    assert 0 < len(inside) < len(start.parameters())
    for name, weight in start.parameters().items():
        assert torch.equal(weight, (body if name in inside else head).parameters()[name])
        assert (".layers." in name or ".h." in name) == (name in inside)
    assert apart(head, base(family, 0)) == 0
    assert apart(head, start) > 0.01


def test_what_cannot_be_made_is_said(base):
    gpt2, tied, llama = base("gpt2"), base("qwen2"), base()
    with pytest.raises(InputError) as caught:
        permutation(gpt2, seed=0)
    assert str(caught.value) == (
        "gpt2 0 is a gpt2, and no permuted start is made for one; leave out that cell (--without permuted), or pass "
        "one of llama, mistral, qwen2, qwen3"
    )
    with pytest.raises(InputError, match="gemma2 0 is a gemma2, and no rotated start is made for one"):
        rotation(base("gemma2"), seed=0)
    with pytest.raises(InputError, match="qwen2 0 has one matrix as embedding and unembedding"):
        rotation(tied, seed=0)
    with pytest.raises(
        InputError, match=r"sigma 0.0 perturbs nothing; pass a share of a tensor's size such as 0.1"
    ):
        perturbed(llama, sigma=0.0, seed=0, name="noisy")
    with pytest.raises(
        InputError, match=r"has weights model\.layers\.0\.self_attn\.q_proj\.bias and llama 0 has none"
    ):
        joined(head=llama, body=with_biases(), name="joined")
