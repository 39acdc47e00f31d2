"""What a dictionary says of an activation, on weights set by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from interp.core.runs import InputError
from interp.models.language import load_model
from tests.features.handmade import Table, handmade, mirrored


def by_hand(**options):
    """Two features of a plane: x less 1, and y; the decoder gives back twice the first and the second along (3, 4)."""
    encoder = torch.eye(2)
    decoder = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    return handmade(encoder, decoder, b_dec=torch.tensor([1.0, 0.0]), **options)


def test_features_and_reconstruction_by_hand():
    dictionary = by_hand()
    h = torch.tensor([[4.0, 2.0], [0.0, 1.0], [1.0, -5.0]])
    assert dictionary.encode(h).tolist() == [[3.0, 2.0], [0.0, 1.0], [0.0, 0.0]]
    # 3 (2, 0) + 2 (3, 4) + (1, 0); (3, 4) + (1, 0); the bias alone
    assert dictionary.reconstruct(h).tolist() == [[13.0, 8.0], [4.0, 4.0], [1.0, 0.0]]
    assert dictionary.decoder.tolist() == [[2.0, 0.0], [3.0, 4.0]]
    assert (dictionary.d_in, dictionary.width) == (2, 2)
    assert dictionary.encode(h.reshape(3, 1, 2)).shape == (3, 1, 2)


def test_features_are_in_single_precision_whatever_the_activation_is():
    h = torch.tensor([[4.0, 2.0]], dtype=torch.bfloat16)
    dictionary = by_hand()
    assert dictionary.encode(h).dtype == torch.float32
    assert dictionary.reconstruct(h).dtype == torch.bfloat16
    dictionary.sae.to(torch.bfloat16)
    assert dictionary.encode(h).dtype == torch.float32


@pytest.mark.parametrize("kind", ["none", "layer_norm", "constant_norm_rescale"])
def test_reconstruction_is_the_scaled_sum_of_decoder_rows_and_what_no_feature_says(kind):
    """h → ĥ is affine in the features with slope s(h) d_j: two readings of it must agree."""
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = torch.randn(4, 6, generator=generator), torch.randn(6, 4, generator=generator)
    dictionary = handmade(encoder, decoder, normalise=kind, b_dec=torch.randn(4, generator=generator))
    h = 3 * torch.randn(5, 4, generator=generator)
    features, scale = dictionary.encode(h), dictionary.scale(h)
    assert scale.shape == (5, 1)
    offset = {"none": torch.zeros(5, 4), "constant_norm_rescale": torch.zeros(5, 4)}
    mean = offset.get(kind, h.mean(1, keepdim=True))
    expected = scale * (features @ decoder + dictionary.sae.b_dec) + mean
    assert torch.allclose(dictionary.reconstruct(h), expected, atol=1e-4)
    assert (kind == "none") == bool((scale == 1).all())


def test_decoder_of_a_topk_autoencoder_that_rescales_by_its_norms():
    from sae_lens import SAE
    from sae_lens.saes.topk_sae import TopKSAEConfig

    config = TopKSAEConfig(d_in=2, d_sae=2, k=2, rescale_acts_by_decoder_norm=True)
    sae = SAE.from_dict(config.to_dict())
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.W_dec.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    dictionary = replace(by_hand(), sae=sae)
    h = torch.tensor([[1.0, 1.0]])
    features = dictionary.encode(h)
    assert features.tolist() == [[5.0, 2.0]]  # times the norms
    assert torch.allclose(dictionary.decoder, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert torch.allclose(features @ dictionary.decoder, dictionary.reconstruct(h))


def test_fingerprint_tells_weights_and_hooks_apart():
    assert by_hand().fingerprint == by_hand().fingerprint
    assert by_hand().fingerprint != by_hand(hook="other").fingerprint
    other = by_hand()
    with torch.no_grad():
        other.sae.b_enc += 1
    assert other.fingerprint != by_hand().fingerprint
    other = by_hand()
    other.sae.cfg.apply_b_dec_to_input = not other.sae.cfg.apply_b_dec_to_input
    assert other.fingerprint != by_hand().fingerprint, "the same weights give other features"


def test_an_activation_beyond_the_limit_is_all_error():
    dictionary = replace(handmade(-torch.eye(2), torch.eye(2)), limit=5.0)
    h = torch.tensor([[[-3.0, -3.9], [-30.0, -40.0]]])
    features, rebuilt = dictionary.split(h)
    assert torch.allclose(features, torch.tensor([[[3.0, 3.9], [0.0, 0.0]]]))
    assert torch.allclose(rebuilt, torch.tensor([[[3.0, 3.9], [0.0, 0.0]]]))
    assert dictionary.beyond(h).tolist() == [[False, True]]
    assert dictionary.fingerprint != replace(dictionary, limit=math.inf).fingerprint


def test_links_and_feature_numbers():
    assert by_hand().link(1) == ""
    assert by_hand(neuronpedia="gpt2-small/6-res").link(1) == "https://neuronpedia.org/gpt2-small/6-res/1"
    with pytest.raises(InputError, match="there is no feature 2; by hand has features 0 to 1"):
        by_hand().link(2)
    with pytest.raises(InputError, match="there is no feature -1"):
        by_hand().check_features([0, -1])
    assert repr(by_hand()) == "Dictionary(by hand: standard, 2 features of 2 at blocks.0.hook_mlp_out)"


def test_memory_bounds_the_activations_read_at_once():
    assert by_hand().rows_at_once() == 2**23
    assert handmade(torch.zeros(1, 2**10), torch.zeros(2**10, 1)).rows_at_once() == 2**14


def test_another_hook_width_or_lineage_is_refused(tiny):
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, name="base")
    hook = "blocks.0.hook_resid_post"
    fits = handmade(mirrored(32), mirrored(32).T.contiguous(), hook=hook, model=model)
    fits.check(model)
    fits.check(replace(model, name="teacher", start=model))
    with pytest.raises(
        InputError, match=r"'blocks.0.hook_resid_pots' is unknown; nearest: blocks.0.hook_resid"
    ):
        replace(fits, hook="blocks.0.hook_resid_pots").check(model)
    with pytest.raises(
        InputError,
        match=f"belongs to models that descend from root, and base descends from {model.fingerprint}",
    ):
        replace(fits, lineage="root").check(model)
    narrow = handmade(mirrored(8), mirrored(8).T.contiguous(), hook=hook, model=model)
    with pytest.raises(
        InputError, match=r"reads activations of width 8, and base has 32 at blocks.0.hook_resid_post"
    ):
        narrow.check(model)
    with pytest.raises(InputError, match=r"reads activations of width 8, not 32; give it those of blocks.0"):
        narrow.encode(torch.zeros(1, 32))


def test_a_network_that_is_no_language_model_has_dictionaries_too():
    by_hand().check(Table(torch.zeros(3, 2)))
