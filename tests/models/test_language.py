"""The seam on seven families: the plain module stays plain, and every way of reading an activation agrees."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from interp.core.runs import InputError
from interp.models.agreement import parity
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.tiny import FAMILIES

RESIDUAL = (
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_resid_post",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_post",
)
FUSED = ("gpt2", "gpt_neox")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(tiny, family):
    hf, tokenizer = tiny(family)
    return load_model(hf, tokenizer=tokenizer, name=family, check=False)


@pytest.fixture
def batch(model, prompts):
    (batch,) = model.batches(prompts, 8)
    assert not batch.mask.all()
    return batch


def apart(a, b, batch):
    return float((a - b)[batch.mask].abs().max())


def test_the_module_passed_in_is_never_changed(tiny, family, prompts):
    hf, tokenizer = tiny(family)
    hf.train()
    kinds = {name: type(module) for name, module in hf.named_modules()}
    values = {name: weight.clone() for name, weight in hf.named_parameters()}
    model = load_model(hf, tokenizer=tokenizer)
    (batch,) = model.batches(prompts, 8)
    model.run(batch, hooks=["blocks.1.attn.hook_z"])
    assert hf.training
    assert kinds == {name: type(module) for name, module in hf.named_modules()}
    assert all(
        torch.equal(values[name], weight) and weight.requires_grad for name, weight in hf.named_parameters()
    )
    assert {w.data_ptr() for w in hf.parameters()} == {w.data_ptr() for w in model.hf.parameters()}
    assert tokenizer.get_vocab() == model.tokenizer.get_vocab()


def test_logits_are_those_of_plain_hugging_face(tiny, family, model, batch):
    hf, _ = tiny(family)
    with torch.no_grad():
        expected = hf(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    assert torch.equal(model.logits(batch), expected)
    assert parity(model) < 1e-5


def test_the_residual_stream_is_what_hugging_face_calls_hidden_states(tiny, family, model, batch):
    hf, _ = tiny(family)
    with torch.no_grad():
        states = hf(
            input_ids=batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True
        ).hidden_states
    found = model.run(batch, hooks=RESIDUAL)
    assert tuple(found) == RESIDUAL
    assert torch.equal(found["blocks.0.hook_resid_pre"], states[0])
    assert torch.equal(found["blocks.0.hook_resid_post"], states[1])
    assert torch.equal(found["blocks.1.hook_resid_pre"], states[1])


def test_the_bridge_reads_the_same_residual_stream(model, batch):
    fast = model.run(batch, hooks=RESIDUAL)
    slow = model.run(batch, hooks=[*RESIDUAL, "blocks.0.attn.hook_z"])
    assert max(apart(fast[name], slow[name], batch) for name in RESIDUAL) < 1e-5


def test_the_residual_stream_is_the_sum_of_its_parts(model, batch):
    layer = "blocks.1"
    names = [
        f"{layer}.{end}" for end in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    ]
    before, attention, mlp, after = model.run(batch, hooks=names).values()
    assert apart(before + attention + mlp, after, batch) < 1e-5


def test_heads_times_output_weights_are_the_attention_output(model, batch):
    W_O, b_O = model.attention_output(1)
    assert tuple(W_O.shape) == (4, 8, 32)
    found = model.run(batch, hooks=["blocks.1.attn.hook_z", "blocks.1.attn.hook_out"])
    z = found["blocks.1.attn.hook_z"]
    assert tuple(z.shape) == (*batch.ids.shape, 4, 8)
    total = torch.einsum("ephk,hkd->epd", z, W_O) + (0 if b_O is None else b_O)
    assert apart(total, found["blocks.1.attn.hook_out"], batch) < 1e-5


def test_an_attention_output_of_no_layer_is_refused(model):
    with pytest.raises(InputError, match=r"has no layer 2; it has layers 0 to 1"):
        model.attention_output(2)


def test_the_unembedding_turns_the_last_residual_stream_into_the_logits(model, batch):
    resid = model.run(batch, hooks=RESIDUAL)["blocks.1.hook_resid_post"]
    unembedding = model.unembedding()
    assert apart(unembedding.logits(resid), model.logits(batch), batch) < 1e-5
    normed = model.run(batch, hooks=["unembed.hook_in"])["unembed.hook_in"]
    assert apart(unembedding.normed(resid), normed, batch) < 1e-5


def test_padding_does_not_reach_real_positions(model, prompts, batch):
    hooks = [*RESIDUAL, "blocks.1.attn.hook_z"]
    together, fast = model.run(batch, hooks=hooks), model.run(batch, hooks=RESIDUAL)
    short = int(batch.lengths.argmin())
    (alone,) = model.batches(prompts[[short]], 8)
    width = int(batch.lengths[short])
    assert alone.ids.shape == (1, width)
    assert alone.mask.all()
    assert (model.logits(alone)[0] - model.logits(batch)[short, :width]).abs().max() < 1e-5
    for name, value in model.run(alone, hooks=hooks).items():
        assert (value[0] - together[name][short, :width]).abs().max() < 1e-5
    for name, value in model.run(alone, hooks=RESIDUAL).items():
        assert (value[0] - fast[name][short, :width]).abs().max() < 1e-5


def test_what_is_behind_the_deepest_hook_is_not_computed(model, batch):
    ran = []
    handle = model.backbone.layers[1].register_forward_hook(lambda *_: ran.append("layer 1"))
    model.run(batch, hooks=["blocks.0.hook_resid_post"])
    model.run(batch, hooks=["blocks.1.hook_resid_pre"])
    assert ran == []
    model.run(batch, hooks=["blocks.1.hook_resid_post"])
    assert ran == ["layer 1"]
    handle.remove()
    assert "unembed.hook_in" in model.hook_names
    bridged = model.bridge.hook_dict
    bridged["blocks.1.ln1.hook_in"].add_hook(lambda value, hook: ran.append("block 1"))
    bridged["unembed.hook_in"].add_hook(lambda value, hook: ran.append("unembed"))
    model.run(batch, hooks=["blocks.0.attn.hook_z"])
    assert ran == ["layer 1"]
    model.run(batch, hooks=["blocks.1.attn.hook_z"])
    assert ran == ["layer 1", "block 1"]
    assert not any(point.fwd_hooks for name, point in bridged.items() if "attn" in name)


def test_an_edit_decides_everything_behind_it_and_ends_with_its_block(model, batch):
    plain = model.logits(batch)
    planted = torch.randn(*batch.ids.shape, 32, generator=torch.Generator().manual_seed(0))
    with model.hooks({"blocks.1.hook_resid_post": lambda value: planted}):
        edited = model.logits(batch)
        seen = model.run(batch, hooks=["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
    assert torch.equal(seen, planted)
    assert apart(edited, model.unembedding().logits(planted), batch) < 1e-5
    assert torch.equal(model.logits(batch), plain)


def test_edits_nest(model, batch):
    name = "blocks.0.hook_resid_post"
    plain = model.run(batch, hooks=[name])[name]
    with model.hooks({name: lambda value: 2 * value}):
        with model.hooks({name: lambda value: value + 1}):
            both = model.run(batch, hooks=[name])[name]
        outer = model.run(batch, hooks=[name])[name]
    assert apart(both, 2 * plain + 1, batch) < 1e-5
    assert apart(outer, 2 * plain, batch) < 1e-5


def test_every_listed_hook_can_be_read(model, batch):
    found = model.run(batch, hooks=model.hook_names)
    assert set(found) == set(model.hook_names)
    assert all(len(value) == len(batch) for value in found.values())


def test_a_live_adapter_is_seen_by_every_path(tiny, family, lora, batch):
    hf, tokenizer = tiny(family)
    peft = lora(hf, scale=0.3)
    member = load_model(peft, tokenizer=tokenizer, name="adapted")
    with torch.no_grad():
        expected = peft(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    assert torch.equal(member.logits(batch), expected)
    assert parity(member) < 1e-3
    hooks = [*RESIDUAL, "blocks.1.attn.hook_z", "blocks.1.attn.hook_out"]
    fast, slow = member.run(batch, hooks=RESIDUAL), member.run(batch, hooks=hooks)
    assert max(apart(fast[name], slow[name], batch) for name in RESIDUAL) < 1e-4
    W_O, b_O = member.attention_output(1)
    total = torch.einsum("ephk,hkd->epd", slow["blocks.1.attn.hook_z"], W_O) + (0 if b_O is None else b_O)
    assert apart(total, slow["blocks.1.attn.hook_out"], batch) < 1e-4
    with member.hooks({"blocks.0.hook_mlp_out": lambda value: value}):
        assert apart(member.logits(batch), expected, batch) < 1e-3


def test_members_on_one_backbone_never_leak_into_one_another(tiny, family, lora, model, batch):
    hf, tokenizer = tiny(family)
    peft = lora(hf, scale=0.3)
    member = load_model(peft, tokenizer=tokenizer, check=False)
    with peft.disable_adapter():
        base = load_model(peft, tokenizer=tokenizer, check=False)
    for read in (base, member, base):
        read.run(batch, hooks=["blocks.1.attn.hook_z"])
    assert base.fingerprint == model.fingerprint != member.fingerprint
    assert torch.equal(base.logits(batch), model.logits(batch))
    assert not torch.equal(member.logits(batch), model.logits(batch))
    assert base.parameters().keys() == member.parameters().keys() == model.parameters().keys()
    ours = {weight.data_ptr() for weight in base.hf.parameters()}
    assert ours <= {weight.data_ptr() for weight in peft.parameters()}


def test_effective_weights_are_the_merged_ones(tiny, family, lora):
    hf, _ = tiny(family)
    peft = lora(hf)
    member = load_model(peft, check=False)
    merged = dict(copy.deepcopy(peft).merge_and_unload().named_parameters())
    assert all(
        torch.allclose(weight, merged[name], atol=1e-6) for name, weight in member.parameters().items()
    )


def test_an_adapter_without_effect_has_the_fingerprint_of_its_base(tiny, family, lora, model):
    hf, _ = tiny(family)
    assert load_model(lora(hf, scale=0.0), check=False).fingerprint == model.fingerprint


class TestOneFamily:
    """What does not depend on the architecture."""

    @pytest.fixture(params=["llama"])
    def family(self, request):
        return request.param

    def test_loading_logs_one_line(self, tiny, family, caplog):
        hf, tokenizer = tiny(family)
        with caplog.at_level(logging.INFO, logger="interp.models"):
            model = load_model(hf, tokenizer=tokenizer, name="tiny")
        (record,) = [r for r in caplog.records if r.levelno == logging.INFO]
        line = record.getMessage()
        assert line.startswith("tiny: max |Δ log-prob| against plain Hugging Face ")
        assert line.endswith(
            f"(tolerance 1e-03), {len(model.hook_names)} hooks, float32, cpu, fingerprint {model.fingerprint}"
        )

    def test_a_model_the_bridge_gets_wrong_is_refused(self, tiny, family, monkeypatch):
        hf, tokenizer = tiny(family)
        monkeypatch.setattr("interp.models.agreement.parity", lambda model: float("nan"))
        with pytest.raises(
            InputError, match=r"nats away from plain Hugging Face when hooked, more than 1e-03"
        ):
            load_model(hf, tokenizer=tokenizer)

    def test_parity_sees_a_bridge_over_other_weights(self, tiny, family, model):
        other = load_model(tiny(family, 1)[0], check=False)
        model.backbone.__dict__["bridge"] = other.backbone.bridge
        assert parity(model) > 0.1

    def test_a_mistyped_hook_offers_the_nearest(self, model, batch):
        with pytest.raises(
            InputError, match=r"hook 'blocks.0.hook_resid_pots' is unknown; nearest: blocks.0.hook_resid_post"
        ):
            model.run(batch, hooks=["blocks.0.hook_resid_pots"])
        with pytest.raises(InputError, match=r"hook 'blocks.7.hook_resid_post' is unknown"):
            model.run(batch, hooks=["blocks.7.hook_resid_post"])
        with (
            pytest.raises(InputError, match=r"hook 'blocks.0.attn.hook_results' is unknown"),
            model.hooks({"blocks.0.attn.hook_results": torch.relu}),
        ):
            pass

    def test_a_gated_hook_that_never_fires_is_not_listed(self, model):
        assert "blocks.0.attn.hook_result" in model.bridge.hook_dict
        assert "blocks.0.attn.hook_result" not in model.hook_names

    def test_training_a_copy_leaves_the_model_alone(self, model):
        before = model.fingerprint
        network = copy.deepcopy(model.hf)
        with torch.no_grad():
            network.lm_head.weight.add_(1.0)
        trained = load_model(network, tokenizer=model.tokenizer, check=False)
        assert trained.fingerprint != before
        assert load_model(model.hf, check=False).fingerprint == before

    def test_freezing_an_adapter_model_does_not_freeze_the_base(self, model, lora, tmp_path):
        lora(model.hf).save_pretrained(tmp_path / "adapter")
        member = model.with_adapter(tmp_path / "adapter", check=False)
        assert not any(weight.requires_grad for weight in member.hf.parameters())
        assert all(weight.requires_grad for weight in model.hf.parameters())
        assert member.start is model

    def test_a_module_can_be_converted(self, tiny, family):
        hf, tokenizer = tiny(family)
        model = load_model(hf, tokenizer=tokenizer, dtype="bfloat16")
        assert (model.dtype, hf.dtype) == (torch.bfloat16, torch.float32)

    def test_a_model_without_tokenizer_cannot_encode(self, tiny, family):
        model = load_model(tiny(family)[0], name="mute")
        with pytest.raises(InputError, match=r"mute has no tokenizer; load it with tokenizer="):
            model.encode(Prompts.from_pairs([("1", "2")]))

    def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(self, tiny, family):
        hf, tokenizer = tiny(family)
        tokenizer.add_tokens(["wombat"])
        size = hf.config.vocab_size
        with pytest.raises(InputError, match=rf"has ids up to {size} and the model {size} embeddings"):
            load_model(hf, tokenizer=tokenizer)

    def test_weights_that_are_not_finite_are_named(self, tiny, family):
        hf, tokenizer = tiny(family)
        with torch.no_grad():
            hf.model.layers[1].mlp.up_proj.weight[3, 4] = float("inf")
        with pytest.raises(
            InputError, match=r"NaN or inf in model.layers.1.mlp.up_proj.weight \(1 of 2048 values\)"
        ):
            load_model(hf, tokenizer=tokenizer, check=False)

    def test_an_adapter_merged_in_place_is_refused(self, tiny, family, lora):
        peft = lora(tiny(family)[0])
        peft.merge_adapter()
        with pytest.raises(
            InputError, match=r"merged in place at .*, so its base is gone; call unmerge_adapter"
        ):
            load_model(peft, name="merged")

    def test_the_module_inside_a_peft_model_is_refused(self, tiny, family, lora):
        with pytest.raises(
            InputError, match=r"holds adapter layers outside a PeftModel; pass the PeftModel itself"
        ):
            load_model(lora(tiny(family)[0]).get_base_model())

    def test_layers_trained_in_full_beside_an_adapter_count(self, tiny, family, lora, prompts):
        hf, tokenizer = tiny(family)
        peft = lora(hf, scale=0.0, modules_to_save=["lm_head"])
        with torch.no_grad():
            peft.get_base_model().lm_head.modules_to_save["default"].weight.mul_(2.0)
        base, member = (load_model(module, tokenizer=tokenizer) for module in (hf, peft))
        (batch,) = base.batches(prompts, 8)
        assert apart(member.logits(batch), 2 * base.logits(batch), batch) < 1e-5
        assert torch.allclose(member.parameters()["lm_head.weight"], 2 * hf.lm_head.weight)
        assert member.fingerprint != base.fingerprint
        with peft.disable_adapter():
            assert load_model(peft, check=False).fingerprint == base.fingerprint
