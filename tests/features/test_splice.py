"""Splicing: doing nothing is nothing, every reader of the model sees one change, and nothing outlives the block."""

import math
from dataclasses import replace

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.standard_sae import StandardSAEConfig

from interp.core.runs import InputError
from interp.features.changes import ablate_features, add, clamp, scaled_change
from interp.features.dictionary import Dictionary
from interp.features.splice import reconstructed, with_features
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.training.sampling import complete, sample_tokens
from interp.training.teachers import neutral_teacher
from tests.features.handmade import ROWS, handmade
from tests.tiny import FAMILIES

POST = "blocks.0.hook_resid_post"


def orthonormal(model, hook=POST, *, b_enc=0.0, **options):
    """Features are the positive and negative parts along a random orthonormal basis: exact when b_enc is 0."""
    q = torch.linalg.qr(
        torch.randn(model.d_model, model.d_model, generator=torch.Generator().manual_seed(0))
    )[0]
    rows = torch.cat([q, -q])
    return handmade(rows.T.clone(), rows, hook=hook, model=model, b_enc=b_enc, **options)


@pytest.fixture
def model(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="tiny")


@pytest.fixture
def batch(model):
    return model.encode(Prompts.from_pairs(ROWS))


def plain(model, batch):
    """Logits of the module that samples, at real tokens."""
    with torch.no_grad():
        logits = model.hf(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    return logits[batch.mask]


def logits(model, batch):
    return model.logits(batch)[batch.mask]


def test_what_is_beyond_the_limit_stays(model, batch):
    """Between the norms of the tokens the splice is that of the tokens below alone, as plain hooks make it."""
    dictionary = replace(orthonormal(model, b_enc=-0.3), limit=math.inf)
    whole = model.run(batch, hooks=(POST,))[POST]
    limit = float(whole[batch.mask].norm(dim=1).median())
    with reconstructed(model, replace(dictionary, limit=limit)):
        found = model.run(batch, hooks=("blocks.1.hook_resid_post",))["blocks.1.hook_resid_post"]
    beyond = (whole.norm(dim=2) > limit)[..., None]
    mixed = torch.where(beyond, whole, dictionary.reconstruct(whole))
    with model.hooks({POST: lambda _: mixed}):
        expected = model.run(batch, hooks=("blocks.1.hook_resid_post",))["blocks.1.hook_resid_post"]
    torch.testing.assert_close(found[batch.mask], expected[batch.mask])
    assert 0 < int(beyond[batch.mask].sum()) < int(batch.mask.sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_doing_nothing_changes_no_logit(tiny, family):
    hf, tokenizer = tiny(family)
    model = load_model(hf, tokenizer=tokenizer, name=family)
    batch = model.encode(Prompts.from_pairs(ROWS))
    before = logits(model, batch)
    for hook in (POST, "blocks.1.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.0.hook_mlp_out"):
        dictionary = orthonormal(model, hook, b_enc=-0.3)  # far from exact, so there is an error to keep
        with with_features(model, dictionary, lambda features: features):
            assert (logits(model, batch) - before).abs().max() < 1e-5
            assert (plain(model, batch) - before).abs().max() < 1e-5


def test_a_dictionary_that_normalises_does_nothing_either(model, batch):
    before = logits(model, batch)
    for normalise in ("layer_norm", "constant_norm_rescale"):
        dictionary = orthonormal(model, normalise=normalise)
        with with_features(model, dictionary, lambda features: features):
            assert (logits(model, batch) - before).abs().max() < 1e-5


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"])
def test_what_reaches_the_activation_is_the_amount_times_the_decoder_row(model, batch, hook):
    dictionary = orthonormal(model, hook)
    before = model.run(batch, hooks=(hook,))[hook]
    with with_features(model, dictionary, add([3, 40], [0.5, -2.0])):
        after = model.run(batch, hooks=(hook,))[hook]
    added = 0.5 * dictionary.decoder[3] - 2.0 * dictionary.decoder[40]
    assert torch.allclose((after - before)[batch.mask], added.expand(int(batch.mask.sum()), -1), atol=1e-5)


def test_a_scaled_activation_gets_scaled_rows(model, batch):
    dictionary = orthonormal(model, normalise="constant_norm_rescale")
    before = model.run(batch, hooks=(POST,))[POST][batch.mask]
    with with_features(model, dictionary, add([3], [0.5])):
        after = model.run(batch, hooks=(POST,))[POST][batch.mask]
    size = before.norm(dim=1, keepdim=True) / model.d_model**0.5
    assert torch.allclose(after - before, 0.5 * size * dictionary.decoder[3], atol=1e-5)


def test_ablating_all_features_of_an_exact_dictionary_leaves_nothing(model, batch):
    dictionary = orthonormal(model)
    with with_features(model, dictionary, ablate_features(range(dictionary.width))):
        left = model.run(batch, hooks=(POST,))[POST]
    assert left[batch.mask].abs().max() < 1e-5


def test_changes_by_hand():
    features = torch.tensor([[[1.0, 0.0, 3.0]]])
    assert ablate_features([2])(features).tolist() == [[[1, 0, 0]]]
    assert add([0, 1], [2.0, -1.0])(features).tolist() == [[[3, -1, 3]]]
    assert add([0, 1], [2.0, -1.0], active=True)(features).tolist() == [[[3, 0, 3]]]
    assert clamp([1, 2], [5.0, 0.5])(features).tolist() == [[[1, 5, 0.5]]]
    assert scaled_change(ablate_features([2]), 0.5)(features).tolist() == [[[1, 0, 1.5]]]
    assert scaled_change(ablate_features([2]), 0.0)(features).tolist() == features.tolist()
    assert features.tolist() == [[[1, 0, 3]]]


def test_impossible_changes_say_so(model, batch):
    with pytest.raises(InputError, match="no features to change; name at least one"):
        ablate_features([])
    with pytest.raises(InputError, match="feature 4 is named twice"):
        add([4, 4], [1.0, 2.0])
    with pytest.raises(InputError, match=r"1 amounts .* for 2 features; give one finite number per feature"):
        clamp([1, 2], [0.5])
    with pytest.raises(InputError, match="give one finite number per feature"):
        add([1], [float("nan")])
    missing = with_features(model, orthonormal(model), ablate_features([64]))
    with (
        pytest.raises(InputError, match="there is no feature 64; the dictionary has features 0 to 63"),
        missing,
    ):
        model.logits(batch)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hook", [POST, "blocks.1.hook_resid_pre"])
def test_plain_module_and_bridge_agree_under_the_change(tiny, family, hook):
    hf, tokenizer = tiny(family)
    model = load_model(hf, tokenizer=tokenizer, name=family)
    batch = model.encode(Prompts.from_pairs(ROWS))
    before = plain(model, batch)
    with with_features(model, orthonormal(model, hook), clamp([0, 5, 40], [3.0, -2.0, 1.0])):
        hooked, direct = logits(model, batch), plain(model, batch)
    assert (direct - hooked).abs().max() < 1e-4
    assert (direct - before).abs().max() > 0.05  # the change is no small one


def test_sampling_sees_the_change_through_its_cache(model):
    prompts = Prompts.from_pairs([("one two", ""), ("name a number", "")])
    dictionary, change = orthonormal(model), add([3, 40], [4.0, 6.0])
    ids = model.encode(prompts).ids[:1, : int(model.encode(prompts).lengths[0])]
    uniforms = torch.full((6, 1), 0.5)
    untouched = sample_tokens(model, ids, uniforms=uniforms, temperature=1e-4)
    with with_features(model, dictionary, change):
        cached = sample_tokens(model, ids, uniforms=uniforms, temperature=1e-4)
        whole = ids
        for _ in range(cached.shape[1]):  # greedy, every token from the whole row anew
            last = model.hf(input_ids=whole, use_cache=False).logits[:, -1]
            whole = torch.cat([whole, last.argmax(-1, keepdim=True)], 1)
        answers = complete(neutral_teacher(model), prompts, seed=0, max_new_tokens=6)
    assert torch.equal(whole[:, ids.shape[1] :], cached)
    assert not torch.equal(cached, untouched)
    assert (
        answers.fingerprint != complete(neutral_teacher(model), prompts, seed=0, max_new_tokens=6).fingerprint
    )


def test_sampling_under_no_change_is_sampling(model):
    prompts = Prompts.from_pairs([(prompt, "") for prompt, _ in ROWS])
    free = complete(neutral_teacher(model), prompts, seed=0, max_new_tokens=6)
    with with_features(model, orthonormal(model), lambda features: features):
        held = complete(neutral_teacher(model), prompts, seed=0, max_new_tokens=6)
    assert held.fingerprint == free.fingerprint


def test_the_model_is_restored_even_after_an_error(model, batch):
    before, read = logits(model, batch), model.run(batch, hooks=(POST,))[POST]
    with (
        pytest.raises(RuntimeError, match="in the block"),
        with_features(model, orthonormal(model), ablate_features([3])),
    ):
        raise RuntimeError("in the block")
    with pytest.raises(RuntimeError, match="in the change"), with_features(model, orthonormal(model), broken):
        model.logits(batch)
    assert torch.equal(logits(model, batch), before)
    assert torch.equal(plain(model, batch), before)
    assert torch.equal(model.run(batch, hooks=(POST,))[POST], read)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())


def broken(features):
    raise RuntimeError("in the change")


def test_changes_nest_and_the_inner_one_reads_what_the_outer_left(model, batch):
    dictionary = orthonormal(model)
    with (
        with_features(model, dictionary, add([3], [2.0])),
        with_features(model, dictionary, clamp([3], [0.5])),
    ):
        both = logits(model, batch), plain(model, batch)
    with with_features(model, dictionary, clamp([3], [0.5])):
        inner = logits(model, batch)
        with with_features(model, orthonormal(model, "blocks.1.hook_resid_post"), add([7], [3.0])):
            deeper = logits(model, batch)
        assert torch.equal(logits(model, batch), inner)
    # the mirror feature 35 is what tells the two apart: 2 d_3 may have silenced it before 3 is clamped
    with with_features(model, dictionary, lambda f: composed(dictionary, f)):
        expected = logits(model, batch)
    assert (both[0] - expected).abs().max() < 1e-4
    assert (both[1] - expected).abs().max() < 1e-4
    assert (deeper - inner).abs().max() > 0.05


def composed(dictionary, features):
    """Add 2 to feature 3, encode again, then set it to 0.5, as features of the first activation."""
    signed = features[..., 3] - features[..., 35] + 2.0
    out = features.clone()
    out[..., 3] = 0.5
    out[..., 35] = (-signed).clamp_min(0)
    return out


def test_reconstruction_drops_the_error_and_nothing_else(model, batch):
    dictionary = orthonormal(model, b_enc=-0.3)
    h = model.run(batch, hooks=(POST,))[POST]
    with reconstructed(model, dictionary):
        replaced, after, sampled = (
            model.run(batch, hooks=(POST,))[POST],
            logits(model, batch),
            plain(model, batch),
        )
    error = h - dictionary.reconstruct(h)
    assert error[batch.mask].abs().max() > 0.1
    assert torch.allclose(replaced[batch.mask], (h - error)[batch.mask], atol=1e-5)
    with model.hooks({POST: lambda h: h - error}):
        expected = logits(model, batch)
    assert (after - expected).abs().max() < 1e-4
    assert (sampled - expected).abs().max() < 1e-4


def test_a_change_holds_beside_live_adapters(tiny):
    from peft import LoraConfig, get_peft_model

    hf, tokenizer = tiny("llama")
    peft = get_peft_model(hf, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.copy_(
                    0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
    model = load_model(peft, tokenizer=tokenizer, name="adapted")
    batch = model.encode(Prompts.from_pairs(ROWS))
    dictionary, before = orthonormal(model), logits(model, batch)
    with with_features(model, dictionary, lambda features: features):
        assert (plain(model, batch) - before).abs().max() < 1e-5
    with with_features(model, dictionary, clamp([0, 5], [3.0, -2.0])):
        hooked, direct = logits(model, batch), plain(model, batch)
    assert (direct - hooked).abs().max() < 1e-4
    assert (direct - before).abs().max() > 0.05
    assert (plain(model, batch) - before).abs().max() < 1e-5


def test_a_gradient_takes_the_change_for_a_constant(model, batch):
    dictionary = orthonormal(model, normalise="layer_norm")
    grads = []
    for change in (lambda f: f, add([3], [2.0])):
        h = model.run(batch, hooks=(POST,))[POST].clone().requires_grad_(True)
        with with_features(model, dictionary, change):
            ((_, edit),) = model._edits
        grads.append(torch.autograd.grad(edit(h).sum(), h)[0])
    assert torch.equal(grads[0], torch.ones_like(grads[0]))
    assert torch.equal(grads[1], grads[0])


def test_another_lineage_or_width_is_refused(model, tiny, batch):
    hf, tokenizer = tiny("llama", seed=1)
    other = load_model(hf, tokenizer=tokenizer, name="other")
    cross = with_features(other, orthonormal(model), ablate_features([0]))
    with pytest.raises(InputError, match="belongs to models that descend from"), cross:
        pass
    sae = SAE.from_dict(StandardSAEConfig(d_in=16, d_sae=8).to_dict())
    narrow = with_features(model, Dictionary(sae, POST, "narrow", model.fingerprint), ablate_features([0]))
    with pytest.raises(InputError, match="reads activations of width 16"), narrow:
        pass
    assert not model._edits
