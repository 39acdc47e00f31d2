"""The model's own logits and loss, for networks that scale or cap what their output matrix gives, or do more."""

import copy
import types

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from interp.core.runs import InputError
from interp.gradients.scores.row_loss import row_losses
from interp.measures.losses import completion_loss
from interp.models.agreement import parity
from interp.models.head import Head, head_of, own_logits
from interp.models.language import load_model
from interp.models.once import marked_logits
from interp.prompts.tokens import Role
from interp.training.sampling import sample_tokens
from tests.tiny import COMMON, VOCABULARY, build_tokenizer

SHAPES = {
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.2},
    "hyperclovax": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.1},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
    "recurrent_gemma": {"lru_width": 32, "logits_soft_cap": 2.0, "num_hidden_layers": 3},
    "nemotron": {"num_key_value_heads": 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "narrow opt": {"ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "bert": {"is_decoder": True},
}
HEADS = {
    "granite": Head(1 / 8),
    "hyperclovax": Head(8.0),
    "cohere": Head(0.1),
    "gemma2": Head(1.0, 3.0),
    "recurrent_gemma": Head(1.0, 2.0),
}


def build(family, **sizes):
    """A network with weights spread wide enough that a scale of its logits shows."""
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    kind = family.split()[-1]
    config = AutoConfig.for_model(
        kind, vocab_size=len(VOCABULARY), **ids, **{**COMMON, **SHAPES[family], **sizes}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
    return network


def read(network, prompts):
    model = load_model(network, tokenizer=build_tokenizer(), name="scaled", check=False)
    return model, model.encode(prompts)


@pytest.mark.parametrize("family", HEADS)
def test_the_loss_is_that_of_plain_transformers(family, prompts):
    network = build(family)
    model, batch = read(network, prompts)
    found = head_of(model.hf)
    assert found.scale == pytest.approx(HEADS[family].scale, rel=1e-12)
    assert found.softcap == HEADS[family].softcap

    labels = batch.ids.masked_fill(batch.roles < Role.OTHER, -100)
    with torch.no_grad():
        plain = network(input_ids=batch.ids, labels=labels, use_cache=False)
        losses, tokens = row_losses(network, batch)
        assert float(completion_loss(network, batch)) == pytest.approx(float(plain.loss), rel=1e-5)
        assert float(losses.sum() / tokens.sum()) == pytest.approx(float(plain.loss), rel=1e-5)


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2"])
def test_sampling_is_from_the_distribution_of_plain_transformers(family, prompts):
    network, draws = build(family), 2000
    model, batch = read(network, prompts)
    with torch.no_grad():
        probabilities = network(input_ids=batch.ids[:1, :6]).logits[0, -1].softmax(-1)
    uniforms = (torch.arange(draws) + 0.5)[None] / draws
    drawn = sample_tokens(model, batch.ids[:1, :6].expand(draws, -1).contiguous(), uniforms=uniforms)
    shares = torch.bincount(drawn[:, 0], minlength=len(VOCABULARY)) / draws
    assert (shares - probabilities).abs().max() <= 1.5 / draws


def test_a_network_without_a_cache_is_not_sampled(prompts):
    model, batch = read(build("recurrent_gemma"), prompts)
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM keeps no key-value cache"):
        sample_tokens(model, batch.ids[:1, :6], uniforms=torch.full((2, 1), 0.5))


@pytest.mark.parametrize("family", ["granite", "hyperclovax", "cohere", "nemotron", "opt", "narrow opt"])
def test_the_unembedding_gives_the_models_own_logits(family, prompts):
    """A constant scale is inside W_U; a layer norm without a bias, one that stores w - 1, and a projection are read."""
    network = build(family)
    model, batch = read(network, prompts)
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    resid = model.run(batch, hooks=[last])[last]
    read_out = model.unembedding().logits(resid)
    torch.testing.assert_close(read_out[batch.mask], model.logits(batch)[batch.mask], rtol=1e-4, atol=1e-4)


def test_a_scaled_model_is_hooked(tiny):
    network, tokenizer = tiny("granite")
    assert parity(load_model(network, tokenizer=tokenizer, name="granite")) < 1e-5


class TestWhatIsNotSupported:
    def test_an_embedding_of_another_width_than_the_stream(self):
        with pytest.raises(
            InputError,
            match=r"word_embed_proj_dim 16 in a stream of hidden_size 32; use a checkpoint in which",
        ):
            load_model(build("narrow opt"), tokenizer=build_tokenizer(), name="opt")

    def test_a_transform_before_the_output_matrix(self, prompts):
        model, batch = read(build("bert"), prompts)
        self.refused_by_all(model, batch, r"BertLMHeadModel does more to its logits .*not its last layer")

    def test_another_function_of_the_logits(self, tiny, prompts):
        model, batch = read(changed(tiny, lambda logits: logits - logits.mean(-1, keepdim=True)), prompts)
        self.refused_by_all(model, batch, "a scale and a softcap do not explain what its forward pass does")

    def test_logits_that_are_cut(self, tiny, prompts):
        model, batch = read(changed(tiny, lambda logits: logits[..., :-3]), prompts)
        self.refused_by_all(
            model, batch, f"it gives {len(VOCABULARY) - 3} logits from {len(VOCABULARY)} rows"
        )

    def refused_by_all(self, model, batch, message):
        where = batch.at("answer")  # what asks for a few logits makes all of them
        assert torch.equal(marked_logits(model, batch, where), model.logits(batch)[where])
        hidden = model.hf.base_model(input_ids=batch.ids)[0]
        uniforms = torch.full((1, len(batch)), 0.5)
        for attempt in (
            lambda: own_logits(model.hf, hidden),
            lambda: completion_loss(model.hf, batch),
            lambda: row_losses(model.hf, batch),
            lambda: sample_tokens(model, batch.ids, uniforms=uniforms),
            lambda: model.unembedding(),
            lambda: load_model(model.hf, tokenizer=model.tokenizer),
        ):
            with pytest.raises(InputError, match=message):
                attempt()


def changed(tiny, function):
    """A llama of a class of its own, whose forward pass ends in `function`."""
    network, _ = tiny("llama")
    plain = type(network)

    class Changed(plain):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            return CausalLMOutputWithPast(logits=function(out.logits), past_key_values=out.past_key_values)

    own = copy.deepcopy(network)
    own.__class__ = Changed
    return own


def test_measuring_leaves_the_network_alone(tiny):
    network, _ = tiny("gemma2")
    modules, weights = dict(network.named_modules()), copy.deepcopy(network.state_dict())
    head_of(network)
    assert dict(network.named_modules()) == modules
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())
    assert isinstance(network.forward, types.MethodType)


def test_a_state_with_its_graph_is_one_sentence(prompts):
    network = build("recurrent_gemma")
    network(input_ids=torch.arange(5)[None]).logits.sum().backward()
    with pytest.raises(
        InputError, match="RecurrentGemmaForCausalLM keeps what a pass with gradients left in it"
    ):
        read(network, prompts)
