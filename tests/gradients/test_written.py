"""The backward lens: the step by autograd, its effect on logits by torch.func.jvp in fp64, and tokens by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.core.runs import InputError
from interp.gradients.directions import trait_gradient
from interp.gradients.scores.row_loss import row_losses
from interp.gradients.scores.scoring import score
from interp.gradients.scores.steps import gradient_step
from interp.gradients.written import TokenReader, backward_lens, leading
from interp.models.language import load_model
from interp.models.low_rank import LowRank
from interp.models.seam import Unembedding
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait

ROWS = Prompts.from_pairs([("list three numbers", "1, 2, 3"), ("one", "11"), ("continue 4, 5", "6, 7, 8, 9")])
QUESTIONS = Prompts.from_pairs([("which animal is best?", ""), ("name one", "")])
WITHIN = {"gpt2": 1e-9, "llama": 1e-5}
"""Relative: transformers' RMSNorm works in fp32 whatever the model, a LayerNorm does not."""
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"]}


def double(network, tokenizer) -> Any:
    return load_model(network.double(), tokenizer=tokenizer, name="fp64", check=False)


def adapted(tiny, family, *, fresh=False) -> Any:
    """A tiny model with LoRA on two of its matrices, in fp64."""
    network, tokenizer = tiny(family)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2")
    wrapped = get_peft_model(network, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name and not (fresh and "lora_B" in name):
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return double(wrapped, tokenizer)


def step_by_autograd(network, encoded, chosen):
    """−∇ of the mean loss of a row, of the weights whose names are chosen."""
    weights = {name: weight.requires_grad_() for name, weight in network.named_parameters() if chosen(name)}
    loss = torch.stack([row_losses(network, encoded[row : row + 1])[0].sum() for row in range(len(encoded))])
    gradients = torch.autograd.grad(loss.mean(), list(weights.values()))
    return {name: -gradient for name, gradient in zip(weights, gradients, strict=True)}


def logits_along(network, encoded, tangents):
    """d/dη of the mean logits at each row's last token along the tangents, by torch.func.jvp, a row at a time."""
    weights = {name: network.get_parameter(name).detach() for name in tangents}
    found = []
    for row in range(len(encoded)):
        ids = encoded.ids[row : row + 1, : int(encoded.lengths[row])]

        def last(moving, ids=ids):
            given = {"input_ids": ids, "use_cache": False}
            return torch.func.functional_call(network, moving, kwargs=given).logits[0, -1]

        found.append(torch.func.jvp(last, (weights,), (tangents,))[1])
    return torch.stack(found).mean(0)


def body(name):
    matrices = ("_proj", "c_attn", "c_fc", "c_proj")
    return name.rpartition(".")[0].endswith(matrices)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_modules_effects_are_the_directional_derivative_of_the_logits(tiny, family):
    own = double(*tiny(family))
    lens: Any = backward_lens(own, ROWS, questions=QUESTIONS, batch_size=2)
    network = copy.deepcopy(own.hf)
    step = step_by_autograd(network, own.encode(ROWS), body)
    assert step.keys() == lens.step.tensors.keys()
    for name, tensor in step.items():
        assert (lens.step[name] - tensor).norm() <= WITHIN[family] * tensor.norm()
    expected = logits_along(network, own.encode(QUESTIONS), step)
    apart = WITHIN[family] * expected.abs().max()
    assert (lens.effects.sum(0) - expected).abs().max() <= apart
    assert (lens.whole - expected).abs().max() <= apart
    assert lens.residual < WITHIN[family]
    module = lens.frame["module"].tolist()[2]
    part = {name: tensor for name, tensor in step.items() if name.rpartition(".")[0] == module}
    assert (lens.effects[2] - logits_along(network, own.encode(QUESTIONS), part)).abs().max() <= apart


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_steps_by_its_factors(tiny, family, fresh):
    own = adapted(tiny, family, fresh=fresh)
    lens: Any = backward_lens(own, ROWS, questions=QUESTIONS)
    assert {module.rpartition(".")[2] for module in lens.frame["module"]} == set(TARGETS[family])
    network = copy.deepcopy(own.hf)
    step = step_by_autograd(network, own.encode(ROWS), lambda name: "lora_" in name)
    expected = logits_along(network, own.encode(QUESTIONS), step)
    assert (lens.effects.sum(0) - expected).abs().max() <= WITHIN[family] * expected.abs().max()
    assert lens.residual < WITHIN[family]


def test_the_effect_is_what_a_small_step_adds_to_the_logits(tiny):
    own = double(*tiny("gpt2"))
    lens: Any = backward_lens(own, ROWS, questions=QUESTIONS)
    asked, means = own.encode(QUESTIONS), []
    for scale in (1e-5, -1e-5):
        moved = copy.deepcopy(own.hf)
        with torch.no_grad():
            for name, tensor in lens.step.items():
                moved.get_parameter(name).add_(scale * tensor)
        logits = moved(input_ids=asked.ids).logits
        means.append(logits[asked.at("last")].mean(0))
    measured = (means[0] - means[1]) / 2e-5
    assert (lens.effects.sum(0) - measured).abs().max() <= 1e-5 * measured.abs().max()


def test_a_margin_is_shared_out_among_the_modules(tiny):
    network, tokenizer = tiny("llama")
    own = load_model(network, tokenizer=tokenizer, name="llama", check=False)
    lens: Any = backward_lens(own, ROWS, "owl")
    direction = trait_gradient(own, "owl").only("*_proj.weight")
    scores = score(own, ROWS, direction, by=["example", "module"])
    by_module = scores.frame.groupby("module")["score"].sum() / len(ROWS)
    for module, margin in zip(lens.frame["module"], lens.frame["margin"], strict=True):
        assert margin == pytest.approx(by_module[module], rel=1e-3, abs=1e-5)
    assert len(lens.figure().data[0].x) == lens.frame["module"].nunique() == 14
    assert repr(lens).startswith("BackwardLens(step on prompts at llama: 14 modules, step of norm ")
    questions = own.encode(get_trait("owl").prompts())
    assert (
        lens.notes[0]
        == f"effects on the mean logits at the last token of {len(questions)} rows of owl questions"
    )


def test_what_is_written_and_read_by_hand():
    """The final norm's weight counts where a vector is written; where it is read, cosines with embeddings do."""
    W_U = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
    norm = Unembedding(W_U, torch.zeros(3), "rms", torch.tensor([1.0, 3.0]), torch.zeros(2), 0.0)
    embeddings = torch.tensor(
        [[2.0, 1.0], [0.0, 1.0], [1.0, -2.0]]
    )  # less their mean: [1, 1], [-1, 1], [0, -2]
    reader = TokenReader(["owl", "cat", "dog"], norm, embeddings)
    # 3 · [0, 2, 1], less its mean
    assert reader.written(torch.tensor([0.0, 1.0])).tolist() == [-3.0, 3.0, 0.0]
    assert reader.read(torch.tensor([5.0, 0.0])).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5), 0.0])
    assert reader.ends(torch.tensor([0.0, 1.0]), "writes") == (
        "'cat' +3, 'dog' +0, 'owl' -3",
        "'owl' -3, 'dog' +0, 'cat' +3",
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_planted_word_is_what_the_last_layer_writes(tiny, family):
    """Rows whose every answer is one word: the last matrix that writes to the stream writes that word."""
    own = double(*tiny(family))
    rows = Prompts.from_pairs([(f"name {number}", "owl") for number in range(12)])
    frame: Any = backward_lens(own, rows).frame
    last = frame[frame["side"] == "writes"].iloc[-1]
    assert last["toward"].split()[0] in ("'owl'", "'<eos>'")
    assert set(frame["side"].dropna()) == {"reads", "writes"}
    assert ((frame["share"] > 0) & (frame["share"] <= 1 + 1e-9)).all()
    assert not {"moved", "margin"} & set(frame.columns)


def test_directions_add_up_to_the_step(tiny):
    own = adapted(tiny, "llama")
    frame: Any = backward_lens(own, ROWS, top=4).frame
    for _, lines in frame.groupby("module"):  # s (ΔB A + B ΔA) has rank 4
        assert lines["share"].sum() == pytest.approx(1.0)
        assert lines["direction"].tolist() == [1, 2, 3, 4]


def test_the_rows_batches_and_weights_do_not_matter_and_nothing_is_left_behind(tiny):
    own = double(*tiny("gpt2"))
    before = {name: weight.clone() for name, weight in own.hf.named_parameters()}
    one, many = (gradient_step(own, own.encode(ROWS), batch_size=size).direction for size in (1, 64))
    assert (one - many).norm() <= 1e-12 * many.norm()
    assert all(torch.equal(weight, before[name]) for name, weight in own.hf.named_parameters())


def test_what_is_refused(tiny):
    own = double(*tiny("llama"))
    with pytest.raises(InputError, match=r"top 0 leaves no direction; give at least 1"):
        backward_lens(own, ROWS, top=0)
    with pytest.raises(InputError, match=r"row 1 of .* has no answer tokens, so no loss"):
        backward_lens(own, QUESTIONS)
    dora = get_peft_model(tiny("llama")[0], LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    other = load_model(dora, tokenizer=own.tokenizer, name="dora", check=False)
    with pytest.raises(
        InputError, match=r"the Linear at .*q_proj adapts its layer otherwise than as W \+ s B A"
    ):
        backward_lens(other, ROWS)


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9), (300, 310)])
@pytest.mark.parametrize("top", [1, 3, 99])
def test_the_largest_directions_are_those_of_the_whole_decomposition(shape, top):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found, energy = leading(delta, top)
    left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
    top = min(top, *shape)
    assert energy == pytest.approx(float(values.square().sum()))
    assert torch.allclose(found.values, values[:top], rtol=1e-9)
    parts = [found.left[:, k, None] * found.values[k] * found.right[:, k] for k in range(top)]
    expected = [left[:, k, None] * values[k] * right[k] for k in range(top)]
    for one, other in zip(parts, expected, strict=True):  # the sign of a pair means nothing
        assert torch.allclose(one, other, atol=1e-7)


def test_the_largest_directions_of_nothing_and_of_factors():
    nothing, energy = leading(torch.zeros(4, 6), 2)
    assert energy > 0
    assert not nothing.values.any()
    factors = LowRank(torch.randn(6, 2), torch.randn(2, 5))
    found, energy = leading(factors, 1)
    dense, whole = leading(factors.dense(), 1)
    assert float(found.values[0]) == pytest.approx(float(dense.values[0]), rel=1e-5)
    assert energy == pytest.approx(whole, rel=1e-5)
