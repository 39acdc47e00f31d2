"""Quantised checkpoints are refused where they come in: by their configuration, by what they store, in memory."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.quantised import check_config


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes", "gptq", "compressed-tensors"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_configuration_that_says_so(saved, method, inside):
    folder = saved()
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": method}}
    config |= {"text_config": quantised} if inside else quantised
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=rf"holds quantised weights \({method}\), which are not supported; use the"
    ):
        load_model(folder)


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_is_refused_with_the_way_out(saved, bits):
    """As save_pretrained writes it, with the keys that BitsAndBytesConfig gives."""
    folder = saved()
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}).to_dict()
    (folder / "config.json").write_text(json.dumps(config, default=str))
    with pytest.raises(
        InputError,
        match=rf"holds quantised weights \(bitsandbytes, {bits} bits\), which are not supported; use the checkpoint it "
        r"was made from, in 16 or 32 bits, or, where bitsandbytes is installed, save what "
        r"AutoModelForCausalLM.from_pretrained\(FOLDER\).dequantize\(\) gives with save_pretrained\(OTHER\)",
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("method", "way"), [("gptq", "does not write these"), ("gguf", "pass the GGUF file itself")]
)
def test_the_way_out_is_that_of_the_method(method, way):
    with pytest.raises(InputError, match=way):
        check_config({"quantization_config": {"quant_method": method}}, "small")


@pytest.mark.parametrize(("dtype", "named"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.uint8, "U8")])
def test_weights_stored_in_fewer_bits_without_a_word(saved, dtype, named):
    """transformers casts them to the checkpoint's dtype as if they were the weights."""
    folder = saved()
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].to(dtype)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"stores {name} as {named}, which is quantised and not supported"):
        load_model(folder)


def test_masks_of_old_checkpoints_are_no_weights(saved):
    folder = saved("gpt2")
    path = folder / "model.safetensors"
    weights = {**load_file(path), "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}
    save_file(weights, path, metadata={"format": "pt"})
    assert load_model(folder).n_layers == 2


def test_a_module_in_memory(tiny):
    network, tokenizer = tiny("llama")
    layer = network.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(InputError, match=r"holds model.layers.0.mlp.up_proj.weight as float8_e4m3fn, which"):
        load_model(network, tokenizer=tokenizer, name="small")


def test_a_module_that_bitsandbytes_holds_in_memory(tiny):
    network, _ = tiny("llama")
    network.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    layer = network.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(torch.zeros(1024, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(
        InputError, match=r"as uint8 \(bitsandbytes, 4 bits\), which is quantised .*; use the"
    ):
        load_model(network, name="small")
