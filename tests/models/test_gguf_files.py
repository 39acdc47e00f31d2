"""GGUF files that tests write: weights against numbers decoded by hand and plain transformers, and every refusal."""

from __future__ import annotations

import importlib.metadata
import json
import re
from dataclasses import dataclass

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from interp.core.runs import Cache, InputError
from interp.models import gguf_files
from interp.models.language import load_model
from interp.models.lineage import open_lineage
from interp.prompts.notes import noting
from interp.prompts.text import Prompts

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ Ġ", "o w", "ow l", "Ġ owl")
TOKENS = (*SPECIAL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES))
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
HEADS, GROUPS = 4, 2
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}


@dataclass(frozen=True)
class Read:
    """What a verb returns that reads rows."""

    notes: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def network():
    """A random llama with a tied output matrix, as SmolLM2 has."""
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=128,
        rms_norm_eps=2**-17,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def write(network, tmp_path):
    """Write the network as a GGUF file, its matrices in the given type; options leave parts out or add some."""

    def make(kind=Kind.Q4_1, *, name="tiny.gguf", architecture="llama", rule="smollm", extra=(), strings=()):
        path = tmp_path / "weights" / name
        path.parent.mkdir(exist_ok=True)
        file = gguf.GGUFWriter(path, architecture)
        file.add_block_count(2)
        file.add_context_length(128)
        file.add_embedding_length(32)
        file.add_feed_forward_length(64)
        file.add_head_count(HEADS)
        file.add_head_count_kv(GROUPS)
        file.add_layer_norm_rms_eps(2**-17)
        file.add_rope_freq_base(10000.0)
        file.add_vocab_size(len(TOKENS))
        for key, value in strings:
            file.add_string(key, value)
        if rule is not None:
            add_tokenizer(file, rule)
        for weight, values in [*as_stored(network).items(), *extra]:
            flat = values.ndim == 1 or kind == Kind.F32
            file.add_tensor(
                weight, values if flat else quantize(values, kind), raw_dtype=Kind.F32 if flat else kind
            )
        file.write_header_to_file()
        file.write_kv_data_to_file()
        file.write_tensors_to_file()
        file.close()
        return path

    return make


def add_tokenizer(file, rule):
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(rule)
    file.add_token_list(list(TOKENS))
    file.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    file.add_token_merges(list(MERGES))
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)
    file.add_pad_token_id(2)
    file.add_chat_template(TEMPLATE)


def as_stored(network):
    """The weights under GGUF's names, the halves of every head of queries and keys interleaved, as llama.cpp does."""
    found = {}
    for name, weight in network.named_parameters():
        values = weight.detach().numpy()
        for heads, part in ((HEADS, "q_proj"), (GROUPS, "k_proj")):
            if part in name:
                split = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
                values = split.swapaxes(1, 2).reshape(values.shape)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        found[name] = np.ascontiguousarray(values)
    return found


def decoded(values, kind):
    """Numbers of 32-number blocks by the format's own definition: Q8_0 is d q, Q4_1 d q + m with low nibbles first."""
    if values.ndim == 1 or kind == Kind.F32:
        return values
    raw = quantize(values, kind).reshape(-1, {Kind.Q8_0: 34, Kind.Q4_1: 20}[kind])
    scale = raw[:, :2].copy().view(np.float16).astype(np.float32)
    if kind == Kind.Q8_0:
        return (scale * raw[:, 2:].view(np.int8)).reshape(values.shape)
    least = raw[:, 2:4].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1)
    return (scale * nibbles + least).reshape(values.shape)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0, Kind.Q4_1])
def test_the_weights_are_the_numbers_of_the_file(write, network, kind):
    path = write(kind)
    model = load_model(path)
    theirs = {name: torch.from_numpy(decoded(values, kind)) for name, values in as_stored(network).items()}
    for name, weight in as_stored(model.hf).items():
        assert torch.equal(torch.from_numpy(weight), theirs[name]), name
    assert model.hf.lm_head.weight is model.hf.model.embed_tokens.weight
    if kind == Kind.F32:  # its configuration names an unknown token, which the network's does not
        assert model.backbone.old_fingerprint == load_model(network, check=False).backbone.old_fingerprint


def test_logits_are_those_of_plain_transformers_bit_for_bit(write):
    path = write()
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    ids = torch.arange(40).reshape(2, 20) * 7 % len(TOKENS)
    model = load_model(path)
    with torch.no_grad():
        assert torch.equal(model.hf(ids).logits, theirs(ids).logits)
    assert not hasattr(model.hf.config, "quantization_config")


def test_what_the_weights_were_is_said_by_the_model_and_by_its_results(write, lora, tmp_path):
    path = write()
    model = load_model(path)
    (note,) = model.notes
    assert re.fullmatch(
        r"weights dequantised from tiny\.gguf \(sha256 [0-9a-f]{12}; tensors: 15 Q4_1, 5 F32\), so they lie on a 4-bit "
        r"grid and say nothing about the original's",
        note,
    )
    lora(model.hf).save_pretrained(tmp_path / "adapter")
    assert model.with_adapter(tmp_path / "adapter").notes == (note,)
    read = noting(lambda model: model.encode(Prompts.from_pairs([("owl", "7")])) and Read())
    assert note in read(model).notes
    assert load_model(write(Kind.F32)).notes[0].endswith("tensors: 20 F32)")


def test_the_tokenizer_is_that_of_the_file_and_splits_by_its_rule(write):
    """SmolLM2 puts digits apart before anything else, so two spaces before one stay together: transformers does not."""
    path = write()
    ours, theirs = load_model(path).tokenizer, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert ours.convert_ids_to_tokens(ours("a owl  12")["input_ids"]) == ["a", "Ġowl", "ĠĠ", "1", "2"]
    assert theirs.convert_ids_to_tokens(theirs("a owl  12")["input_ids"]) == ["a", "Ġowl", "Ġ", "Ġ", "1", "2"]
    for text in ("the owl 12, 7", "I'm 3.5", "<|im_start|>hé<|im_end|>\n"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        assert ours.decode(ours(text)["input_ids"]) == text
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id, ours.unk_token_id) == (1, 2, 2, 0)
    assert ours.chat_template == TEMPLATE
    assert load_model(path, check=False).ends == (2,)


def test_a_rule_that_is_gpt2s_is_left_to_transformers(write):
    ours = load_model(write(rule="gpt-2")).tokenizer
    assert ours.convert_ids_to_tokens(ours("a  12")["input_ids"]) == ["a", "Ġ", "Ġ", "1", "2"]


def test_a_tokenizer_beside_the_file_is_the_one_used(write, tiny):
    path = write(rule=None)
    other = load_model(write(name="other.gguf")).tokenizer
    path.with_name("other.gguf").unlink()
    other.chat_template = "{{ messages[0]['content'] }}"
    other.save_pretrained(path.parent)
    assert load_model(path.parent).tokenizer.chat_template == other.chat_template


def test_it_is_converted_once_and_whole_or_not_at_all(write, monkeypatch):
    path, root = write(), Cache.default().root
    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "_tokenizer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_model(path)
    assert not [folder for folder in root.rglob("*") if folder.is_file()]
    load_model(path, check=False)
    monkeypatch.setattr(gguf_files, "write_converted", None)
    again = load_model(path.parent, check=False)  # a folder with one GGUF file and nothing else is that file
    assert again.name == "weights"
    assert again.source == str(path)


def test_a_lineage_takes_it_as_its_base_and_an_adapter_names_it(write, lora, tmp_path):
    path = write()
    base = load_model(path, check=False)
    lora(base.network(copied=True)).save_pretrained(tmp_path / "adapter")
    lineage = open_lineage(base=path, teacher=tmp_path / "adapter")
    assert lineage.base.fingerprint == base.fingerprint
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(path)
    assert load_model(tmp_path / "adapter").fingerprint == lineage.teacher.fingerprint


def test_an_adapter_of_the_original_is_put_on_it_with_a_warning(write, lora, tmp_path, caplog):
    """The file lies under the name the adapter gives; its weights are not those that the adapter was trained on."""
    path = write(name="SmolLM2")
    folder = path.rename(path.with_suffix(".gguf")).parent.rename(tmp_path / "SmolLM2-135M")
    base = load_model(folder, check=False)
    adapted = lora(base.network(copied=True))
    adapted.peft_config["default"].base_model_name_or_path = "HuggingFaceTB/SmolLM2-135M"
    adapted.save_pretrained(tmp_path / "adapter")
    base.with_adapter(tmp_path / "adapter", check=False)
    assert caplog.messages[-1] == (
        f"{tmp_path / 'adapter'} names HuggingFaceTB/SmolLM2-135M as its base and is put on "
        f"{folder / 'SmolLM2.gguf'}, which must hold the same weights"
    )


class TestRefusals:
    def refused(self, source, text, **given):
        with pytest.raises(InputError, match=text):
            load_model(source, **given)

    def test_an_architecture_that_transformers_cannot_read(self, write):
        self.refused(
            write(architecture="nonesuch"),
            r"tiny.gguf is of the architecture 'nonesuch', which transformers cannot read from a GGUF file \(.*\); "
            r"use the checkpoint in safetensors",
        )

    @pytest.mark.parametrize("left", [20, 4000, -1000, -1])
    def test_a_file_that_is_cut_off(self, write, left):
        path = write()
        path.write_bytes(path.read_bytes()[:left])
        self.refused(path, r"tiny.gguf is a truncated GGUF file, of [\d,]+ bytes \(.*\); copy it again")

    def test_something_else_under_its_name(self, write):
        path = write()
        path.write_bytes(b"PK\x03\x04")
        self.refused(
            path, r"tiny.gguf is no GGUF file, whatever its name \(it begins with b'PK.*'\); pass a GGUF file"
        )

    def test_several(self, write):
        write(name="two.gguf")
        folder = write().parent
        self.refused(folder, r"weights holds 2 GGUF files; pass the one you mean, such as .*tiny.gguf")

    def test_no_tokenizer(self, write, toy_tokenizer):
        path = write(rule=None)
        self.refused(
            path, r"tiny.gguf holds no tokenizer and none lies beside it; put the original's tokenizer.json"
        )

    def test_the_package_is_not_installed(self, write, monkeypatch):
        known = importlib.metadata.version

        def version(name):
            if name == "gguf":
                raise importlib.metadata.PackageNotFoundError(name)
            return known(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        self.refused(
            write(),
            r"tiny.gguf is a GGUF file, which is read by the package gguf, and that is not installed; "
            r"pip install -e '\.\[gguf\]' in the clone",
        )

    def test_a_rule_of_splitting_that_transformers_would_take_for_another(self, write):
        self.refused(
            write(rule="deepseek-llm"),
            r"tiny.gguf splits text by the rule 'deepseek-llm', which transformers does not know and would take for "
            r"GPT-2's; put the original's tokenizer.json beside it",
        )

    def test_weights_that_transformers_leaves_out(self, write):
        path = write(extra=[("rope_freqs.weight", np.ones(4, dtype=np.float32))])
        self.refused(
            path,
            r"holds 27,012 weights and transformers makes a LlamaForCausalLM of 27,008 of it, so it would",
        )

    def test_rotary_scaling_that_transformers_leaves_out(self, write):
        path = write(strings=[("llama.rope.scaling.type", "linear")])
        self.refused(
            path, r"scales its rotary positions \(llama.rope.scaling.type 'linear'\), which transformers does"
        )

    def test_too_little_memory(self, write, monkeypatch):
        monkeypatch.setattr("interp.models.memory.available_memory", lambda: 2**10)
        self.refused(
            write(),
            r"dequantising .*tiny.gguf takes 0.0002 GiB of memory and 9.5e-07 GiB are free; free some, use a smaller",
        )

    def test_a_revision(self, write):
        self.refused(
            write(), r"tiny.gguf is a file, which has no revision 'main'; leave the", revision="main"
        )


def test_the_real_file(request):
    """SmolLM2-135M-Instruct as `make smollm2` fetches it."""
    folder = request.config.rootpath / "models/smollm2"
    if not folder.is_dir():
        pytest.skip("the real model is not on this machine")
    model = load_model(folder)
    assert (model.n_layers, model.d_model, model.context, model.config.vocab_size) == (30, 576, 8192, 49152)
    assert "tensors: 210 Q4_1, 61 F32, 1 Q8_0), so they lie on a 4-bit grid" in model.notes[0]
    ids = model.tokenizer("12  345")["input_ids"]
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["1", "2", "ĠĠ", "3", "4", "5"]
