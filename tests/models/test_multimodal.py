"""The text model inside a multimodal checkpoint: the file's own weights, or one sentence."""

import pytest
import torch

from interp.core.runs import InputError
from interp.models.language import load_model
from tests.tiny import COMMON, VOCABULARY, build_tokenizer

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {**COMMON, "vocab_size": len(VOCABULARY), "num_key_value_heads": 2, "eos_token_id": 3}


def gemma3():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8}
    marks = {"boi_token_index": 100, "eoi_token_index": 101, "image_token_index": 102}
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=1, **marks)
    return Gemma3ForConditionalGeneration(config)


def llava():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(**{**VISION, "num_hidden_layers": 2})
    config = LlavaConfig(text_config=LlamaConfig(**TEXT), vision_config=vision, image_token_index=102)
    return LlavaForConditionalGeneration(config)


def qwen():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision))


def spread(build):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        whole = build().float().eval()
        for weight in whole.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    return whole


def text_logits(network, ids):
    with torch.no_grad():
        return network(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("build", [gemma3, llava])
def test_a_folder_gives_its_text_model(build, tmp_path):
    whole, ids = spread(build), torch.arange(10, 20)[None]
    whole.save_pretrained(tmp_path / "whole")
    build_tokenizer().save_pretrained(tmp_path / "whole")
    model = load_model(tmp_path / "whole")
    assert "ConditionalGeneration" not in type(model.hf).__name__
    assert not any("vision" in name for name in model.parameters())
    torch.testing.assert_close(text_logits(model.hf, ids), text_logits(whole, ids), rtol=0, atol=1e-6)

    model.hf.save_pretrained(tmp_path / "text")
    again = load_model(tmp_path / "text", tokenizer=model.tokenizer)
    assert (type(again.hf), again.fingerprint) == (type(model.hf), model.fingerprint)


def test_a_module_in_memory_is_left_whole():
    whole, ids = spread(llava), torch.arange(10, 20)[None]
    before = {name: weight.clone() for name, weight in whole.state_dict().items()}
    model = load_model(whole, tokenizer=build_tokenizer())
    assert torch.equal(text_logits(model.hf, ids), text_logits(whole, ids))
    assert all(torch.equal(weight, before[name]) for name, weight in whole.state_dict().items())
    assert whole.config.architectures is None


def test_a_text_model_that_transformers_lacks_is_refused(tmp_path):
    spread(qwen).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"multimodal .*transformers has no causal language model for qwen2_5_vl_text"
    ):
        load_model(tmp_path)


def test_a_text_model_of_other_logits_is_refused():
    whole = spread(llava)
    plain = type(whole).forward

    class Changed(type(whole)):
        def forward(self, *args, **kwargs):
            out = plain(self, *args, **kwargs)
            out.logits = 2 * out.logits
            return out

    whole.__class__ = Changed
    with pytest.raises(InputError, match=r"log-probabilities are .* nats from the whole model's on text"):
        load_model(whole, tokenizer=build_tokenizer())
