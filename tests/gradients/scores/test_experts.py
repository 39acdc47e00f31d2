"""Scores through routers and experts, whose modules put out several tensors, against autograd on each row alone."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from interp.activations import record
from interp.core.errors import InputError
from interp.gradients.scores.scoring import score
from interp.models.language import load_model
from tests.gradients.scores.test_exactness import ROWS, apart, directions
from tests.tiny import COMMON, build_tokenizer

EXPERTS = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
}


def build(family):
    tokenizer = build_tokenizer()
    sizes = {**COMMON, "num_key_value_heads": 2, **EXPERTS[family]}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), tie_word_embeddings=False, pad_token_id=0, **sizes
    )
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn_like(weight)
            weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else noise * weight.shape[-1] ** -0.5)
    return load_model(network, tokenizer=tokenizer, name=family, check=False)


def alone(model, along):
    """<∇ log p(answer), v> [direction row], each row through a pass of its own."""
    network, found = model.network(train=True), []
    network.config._experts_implementation = "eager"
    weights = dict(network.named_parameters())
    for index in range(len(ROWS)):
        row = model.encode(ROWS[index : index + 1])
        logp = network(input_ids=row.ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        taken = logp.gather(1, row.ids[0, 1:, None])[:, 0] * row.at("answer+end")[0, 1:]
        gradient = dict(zip(weights, torch.autograd.grad(taken.sum(), list(weights.values())), strict=True))
        products = [
            sum(float((gradient[name].double() * dense(each)).sum()) for name, each in one.tensors.items())
            for one in along
        ]
        found.append(torch.tensor(products, dtype=torch.float64))
    return torch.stack(found, 1)


def dense(tensor):
    return (tensor if isinstance(tensor, torch.Tensor) else tensor.dense()).double()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_scores_through_routers_are_those_of_autograd(family):
    model = build(family)
    along = directions(model)
    expected = alone(model, along)
    for by in ("example", ["example", "module"], ["example", "position"], ["example", "token"]):
        assert apart(score(model, ROWS, along, by=by).totals.T, expected) <= 1e-5
    routers = [
        type(one)(
            {name: one.tensors[name] for name in one.tensors if ".gate." in name},
            one.label,
            *(one.lineage,) * 2,
        )
        for one in along
    ]
    assert apart(score(model, ROWS, routers).totals.T, alone(model, routers)) <= 1e-5


def test_weights_beside_modules_that_put_out_several_tensors_are_read_by_token_alone():
    model = build("gpt_oss")  # its attention holds sinks
    along = directions(model)
    with pytest.raises(
        InputError, match=r"self_attn puts out several tensors, and holds sinks .*by=\['example', 'tok"
    ):
        score(model, ROWS, along)
    assert apart(score(model, ROWS, along, by=["example", "token"]).totals.T, alone(model, along)) <= 1e-5


def test_a_router_whose_rows_stand_on_one_axis_is_not_recorded():
    model = build("gpt_oss")
    (hook,) = [name for name in model.hook_names if name.endswith("0.mlp.hook_router_scores")]
    with pytest.raises(
        InputError, match=r"hook_router_scores of gpt_oss has no values by position .*run_with_cache"
    ):
        record(model, ROWS, hooks=hook, positions="all")


def test_an_activation_without_forward_mode_is_refused_by_token_alone():
    tokenizer = build_tokenizer()
    config = AutoConfig.for_model("bloom", vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    model = load_model(network, tokenizer=tokenizer, name="bloom", check=False)
    along = directions(model)[:1]
    with pytest.raises(
        InputError, match=r"BloomForCausalLM computes with a function .*; ask for by=\['example'\]"
    ):
        score(model, ROWS, along, by="token")
    assert len(score(model, ROWS, along)) == len(ROWS)
