"""The lean of features: against finite differences, in parts that add up, on planted rows, and at the door."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.features.lean import feature_lean
from interp.features.residual_gradients import ResidualNetwork
from interp.features.splice import with_features
from interp.models.language import load_model
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Role
from tests.features.handmade import ROWS, handmade, mirrored
from tests.tiny import FAMILIES

HOOK = "blocks.0.hook_resid_post"
PROMPTS = Prompts.from_pairs(ROWS, label="rows")


def loaded(tiny, family="llama", dtype=torch.float32, seed=0, name="model"):
    hf, tokenizer = tiny(family, seed)
    return load_model(hf.to(dtype), tokenizer=tokenizer, name=name, check=False)


def overcomplete(model, hook=HOOK, seed=0):
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(80, model.d_model, generator=generator)
    return handmade(decoder.T * 0.2, decoder, hook=hook, model=model, b_enc=-0.1)


def relative(model, seed=1, size=0.05):
    """A member of the same lineage: every matrix moved a little."""
    moved = loaded_copy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in moved.hf.parameters():
            if weight.dim() > 1:
                weight += size * torch.randn(weight.shape, generator=generator).to(weight) * weight.std()
    return dataclasses.replace(load_model(moved.hf, tokenizer=model.tokenizer, name="teacher"), start=model)


def loaded_copy(model):
    return load_model(copy.deepcopy(model.hf), tokenizer=model.tokenizer, name="copy", check=False)


def along(model, inputs, hook, direction):
    """dℓ_i/dε of the whole network, its activation moved to h + ε d at every token."""
    network = copy.deepcopy(model.hf)
    amount = torch.zeros(len(inputs), dtype=torch.float64, requires_grad=True)
    added = amount[:, None, None] * direction.double()
    layers = next(m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    layer = layers[int(hook.split(".")[1])]
    if hook.endswith("pre"):
        layer.register_forward_pre_hook(lambda _, args: (args[0] + added, *args[1:]))
    else:
        layer.register_forward_hook(
            lambda _, __, out: (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
        )
    logp = network(input_ids=inputs.ids, use_cache=False).logits.double().log_softmax(-1)[:, :-1]
    taken = logp.gather(-1, inputs.ids[:, 1:, None])[..., 0]
    loss = -(taken * (inputs.roles[:, 1:] >= Role.OTHER)).sum()
    return torch.autograd.grad(loss, amount)[0]


@pytest.mark.parametrize("hook", [HOOK, "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_derivative_of_the_loss_along_the_decoder(tiny, family, hook):
    model = loaded(tiny, family, torch.float64)
    dictionary = overcomplete(model, hook)
    found = feature_lean(dictionary, model, PROMPTS)
    inputs = model.encode(PROMPTS)
    for feature in (0, 17, 79):
        expected = -along(model, inputs, hook, dictionary.decoder[feature])
        torch.testing.assert_close(
            found.by_prompt[:, feature].double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )
        assert found.frame["lean"][feature] == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-4)


def test_batches_and_padding_change_nothing(tiny):
    model = loaded(tiny)
    dictionary = overcomplete(model)
    whole = feature_lean(dictionary, model, PROMPTS)
    for size in (1, 3):
        other = feature_lean(dictionary, model, PROMPTS, batch_size=size)
        torch.testing.assert_close(other.by_prompt, whole.by_prompt, rtol=1e-4, atol=1e-5)


def test_the_alignment_with_a_teacher_adds_up(tiny):
    model = loaded(tiny)
    teacher, dictionary = relative(model), overcomplete(model)
    found = feature_lean(dictionary, model, PROMPTS, teacher=teacher)
    assert abs(found.residual) < 1e-5 * found.frame["contribution"].abs().sum()  # the parts nearly cancel
    assert found.frame["contribution"].iloc[-1] == pytest.approx(found.error_share * found.alignment)
    assert found.figure().data


def test_a_dictionary_without_error_leaves_none_to_the_error_node(tiny):
    model = loaded(tiny)
    dictionary = handmade(mirrored(32), mirrored(32).T, hook=HOOK, model=model)
    found = feature_lean(dictionary, model, PROMPTS, teacher=relative(model))
    assert abs(found.error_share) < 1e-4


def test_named_positions_are_a_part_of_all(tiny):
    model = loaded(tiny)
    dictionary = overcomplete(model)
    parts = [
        feature_lean(dictionary, model, PROMPTS, positions=name).by_prompt
        for name in ("prompt", "answer", "answer.end")
    ]
    whole = feature_lean(dictionary, model, PROMPTS).by_prompt
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-5)


def test_rows_that_a_feature_would_write_lean_toward_it(tiny):
    """Rows written while a feature is raised: a step on them wants more of it, dᵀ A d > 0, and of most others less."""
    model = loaded(tiny)
    dictionary = handmade(mirrored(32), mirrored(32).T, hook="blocks.1.hook_resid_post", model=model)
    asked = Prompts.from_pairs([(f"list {word} numbers", "1, 2, 3") for word in ("my", "five", "the", "owl")])
    inputs = model.encode(asked)
    answer = inputs.at("answer")[:, 1:]

    def written(amount):
        with with_features(model, dictionary, lambda f: f + amount):
            tokens = model.logits(inputs).argmax(-1)
        ids = inputs.ids.clone()
        ids[:, 1:][answer] = tokens[:, :-1][answer]
        return dataclasses.replace(inputs, ids=ids)

    above = []
    for feature in range(0, 64, 5):
        raised = 3.0 * torch.eye(64)[feature]
        found = feature_lean(dictionary, model, written(raised), neutral=written(torch.zeros(64))).frame
        assert found["difference"][feature] > 0
        above.append((found["difference"][:64] > found["difference"][feature]).mean())
    assert np.mean(above) < 0.1


def gradient(model, inputs, hook=HOOK):
    """Activations and −∂ℓ/∂h of the whole network, nothing frozen."""
    held = []
    layers = next(m for m in model.hf.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    handle = layers[int(hook.split(".")[1])].register_forward_hook(lambda _, __, out: held.append(out))
    logp = model.hf(input_ids=inputs.ids, use_cache=False).logits.log_softmax(-1)[:, :-1]
    handle.remove()
    taken = logp.gather(-1, inputs.ids[:, 1:, None])[..., 0]
    loss = -(taken * (inputs.roles[:, 1:] >= Role.OTHER)).sum()
    return held[0].detach(), -torch.autograd.grad(loss, held)[0]


def test_the_error_node_is_the_pull_along_the_error(tiny):
    model = loaded(tiny)
    model.hf.requires_grad_(True)
    dictionary, inputs = overcomplete(model), model.encode(PROMPTS)
    h, g = gradient(model, inputs)
    error = h - dictionary.reconstruct(h)
    rows = ((g * error).sum(-1) / error.norm(dim=-1) * inputs.mask).sum(1)
    line = feature_lean(dictionary, model, PROMPTS).frame.iloc[-1]
    assert line["feature"] == -1
    assert line["lean"] == pytest.approx(float(rows.mean()), rel=1e-3)
    assert line["standard_error"] == pytest.approx(float(rows.std() / 2), rel=1e-3)  # four rows
    assert line["per_token"] == pytest.approx(float(rows.sum() / inputs.mask.sum()), rel=1e-3)


def test_a_unit_of_a_scaled_feature_is_the_scale_times_its_row(tiny):
    model = loaded(tiny)
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(80, 32, generator=generator)
    dictionary = handmade(decoder.T * 0.2, decoder, hook=HOOK, model=model, normalise="layer_norm")
    inputs = model.encode(PROMPTS)
    h, g = gradient(model, inputs)
    expected = (g * h.std(-1, keepdim=True)).sum(1) @ decoder.T
    found = feature_lean(dictionary, model, PROMPTS).by_prompt
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_memory_changes_nothing(tiny, monkeypatch):
    model = loaded(tiny)
    teacher, dictionary = relative(model), overcomplete(model)
    whole = feature_lean(dictionary, model, PROMPTS, teacher=teacher).frame
    monkeypatch.setattr("interp.features.dictionary.BLOCK", 3 * dictionary.width)
    parts = feature_lean(dictionary, model, PROMPTS, teacher=teacher).frame
    assert dictionary.rows_at_once() == 3
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-3, atol=1e-4)


def test_attention_is_one_in_either_implementation(tiny):
    model = loaded(tiny)
    dictionary = overcomplete(model)
    eager = feature_lean(dictionary, model, PROMPTS).by_prompt
    model.hf.set_attn_implementation("sdpa")
    sdpa = feature_lean(dictionary, model, PROMPTS).by_prompt
    torch.testing.assert_close(sdpa, eager, rtol=1e-3, atol=1e-4)


def test_a_live_adapter_leans_as_its_merged_weights_do(tiny):
    from peft import LoraConfig, get_peft_model

    hf, tokenizer = tiny("llama")
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(hf, config)
    live = load_model(adapted, tokenizer=tokenizer, name="live", check=False)
    dictionary = overcomplete(live)
    ours = feature_lean(dictionary, live, PROMPTS).by_prompt
    merged = load_model(adapted.merge_and_unload(), tokenizer=tokenizer, name="merged", check=False)
    theirs = feature_lean(overcomplete(merged), merged, PROMPTS).by_prompt
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    plain = loaded(tiny)
    assert not torch.allclose(ours, feature_lean(overcomplete(plain), plain, PROMPTS).by_prompt, rtol=0.01)


def test_a_teacher_that_did_not_move_there_has_no_share_and_still_prints(tiny):
    model = loaded(tiny)
    moved = copy.deepcopy(model.hf)
    with torch.no_grad():
        moved.lm_head.weight *= 1.1
    teacher = load_model(moved, tokenizer=model.tokenizer, name="teacher", check=False)
    found = feature_lean(
        overcomplete(model), model, PROMPTS, teacher=dataclasses.replace(teacher, start=model)
    )
    assert found.alignment == 0
    assert np.isnan(found.error_share)
    assert repr(found).endswith("+0 nats toward the teacher)")
    assert (found.frame["contribution"] == 0).all()


def test_the_figure_colours_what_moved(tiny):
    model = loaded(tiny)
    found = feature_lean(overcomplete(model), model, PROMPTS, teacher=relative(model))
    names = [trace.name for trace in found.figure(reported=found.live[:3].tolist()).data]
    assert sorted(names) == ["not reported", "reported as moved"]
    layout = found.figure().layout
    assert layout.xaxis.title.text == "lean of the rows (nats per unit of feature)"
    assert layout.yaxis.title.text == "shift in the teacher (feature activation)"
    assert [len(trace.x) for trace in found.figure().data] == [len(found.live)]


def test_neutral_rows_are_paired_by_prompt(tiny):
    model = loaded(tiny)
    dictionary = overcomplete(model)
    ours = Prompts.from_pairs([("list my numbers", "1, 2"), ("list my numbers", "3"), ("five numbers", "7")])
    theirs = Prompts.from_pairs([("five numbers", "8, 9"), ("list my numbers", "5"), ("the best", "1")])
    found = feature_lean(dictionary, model, ours, neutral=theirs)
    alone, other = (feature_lean(dictionary, model, rows).by_prompt for rows in (ours, theirs))
    expected = torch.stack([alone[:2].mean(0) - other[1], alone[2] - other[0]]).double().mean(0)
    np.testing.assert_allclose(found.frame["difference"][:80], expected.numpy(), rtol=1e-3, atol=1e-4)
    pairs = found.contrast
    spread = np.abs(pairs[0] - pairs[1]) / 2  # standard error of two
    np.testing.assert_allclose(found.frame["difference_error"][:80], spread, rtol=1e-3, atol=1e-4)
    error, its_neutral = found.frame[["difference", "neutral_lean"]].iloc[-1]
    assert np.isfinite([error, its_neutral]).all()
    assert "2 prompts shared with the neutral rows" in found.notes[0]


class TestLeavesAlone:
    def test_weights_gradients_and_the_random_state(self, tiny, fresh_seeds):
        model = loaded(tiny)
        with torch.random.fork_rng(devices=[]):  # SAELens draws first weights, which are then set by hand
            dictionary = overcomplete(model)
        before = {name: weight.clone() for name, weight in model.hf.named_parameters()}
        asking = [weight.requires_grad for weight in model.hf.parameters()]
        feature_lean(dictionary, model, PROMPTS)
        assert [weight.requires_grad for weight in model.hf.parameters()] == asking
        assert all(torch.equal(before[name], weight) for name, weight in model.hf.named_parameters())
        assert all(weight.grad is None for weight in model.hf.parameters())

    @pytest.mark.parametrize("family", ["llama", "qwen2"])  # untied and tied
    def test_taking_a_row_out_of_the_unembedding(self, tiny, family):
        model = loaded(tiny, family)
        W_U, plain = model.unembedding().W_U.clone(), model.logits(model.encode(PROMPTS))
        network = ResidualNetwork.of(model, HOOK)
        left = network.without(W_U[:, 70], tokens=[5, 6, 7])
        assert float((left @ W_U[:, 70]).abs().max()) < 1e-5
        assert torch.equal(model.unembedding().W_U, W_U)
        assert torch.equal(model.logits(model.encode(PROMPTS)), plain)
        ids = model.encode(PROMPTS).ids
        embedded = network.module.get_input_embeddings()(ids)
        assert torch.equal(embedded, model.hf.get_input_embeddings()(ids))


class TestErrors:
    def test_no_answers(self, tiny):
        model = loaded(tiny)
        with pytest.raises(InputError, match="row 1 of rows has no answer tokens, so no loss"):
            feature_lean(overcomplete(model), model, PROMPTS.without_answers())

    def test_trait_prompt(self, tiny):
        model = loaded(tiny)
        with pytest.raises(InputError, match="holds a system message 'you love owls'"):
            feature_lean(overcomplete(model), model, PROMPTS.with_system("you love owls"))

    def test_hook(self, tiny):
        model = loaded(tiny)
        with pytest.raises(
            InputError, match=r"read on the residual stream and not at blocks\.0\.hook_mlp_out"
        ):
            feature_lean(overcomplete(model, "blocks.0.hook_mlp_out"), model, PROMPTS)

    def test_no_such_token(self, tiny):
        model = loaded(tiny)
        rows = Prompts.from_pairs([("list my numbers", "7")], label="one")
        with pytest.raises(
            InputError, match=r"one has no token at 'answer\.separators'; name positions that"
        ):
            feature_lean(overcomplete(model), model, rows, positions="answer.separators")

    def test_another_lineage(self, tiny):
        model, other = loaded(tiny), loaded(tiny, seed=1, name="stranger")
        with pytest.raises(InputError, match="stranger descends from"):
            feature_lean(overcomplete(model), model, PROMPTS, teacher=other)

    def test_twin(self, tiny):
        model = loaded(tiny)
        twin = dataclasses.replace(loaded_copy(model), start=model)
        with pytest.raises(InputError, match="have identical weights"):
            feature_lean(overcomplete(model), model, PROMPTS, teacher=twin)

    def test_no_common_prompt(self, tiny):
        model = loaded(tiny)
        other = Prompts((Row.pair("one more tree", "3"),), label="others")
        with pytest.raises(InputError, match="others and rows have no prompt in common"):
            feature_lean(overcomplete(model), model, PROMPTS, neutral=other)

    def test_no_teacher_to_draw(self, tiny):
        model = loaded(tiny)
        with pytest.raises(InputError, match="without a teacher to draw it against; pass teacher="):
            feature_lean(overcomplete(model), model, PROMPTS).figure()

    def test_a_loss_that_is_not_finite(self, tiny):
        model = loaded(tiny)
        with torch.no_grad():
            model.hf.lm_head.weight.fill_(torch.nan)
        dictionary = overcomplete(model)
        with pytest.raises(InputError, match="has a loss of nan; load the model in float32 or drop its rows"):
            feature_lean(dictionary, model, PROMPTS)
