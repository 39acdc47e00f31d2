"""A base that is a checkpoint and a small adapter: what it adds up to, and lineages kept without the checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from interp.core.runs import InputError
from interp.experiment.folders import chat_context
from interp.models.language import load_model
from interp.models.lineage import Lineage, read_lineage
from interp.models.members import Growth, write_adapter
from interp.models.merging import merge_adapter
from interp.organisms.library import load_lineage
from interp.prompts.chat import chat_opening, with_template
from tests.tiny import build_tokenizer


@pytest.fixture
def checkpoint(tiny):
    return load_model(tiny("llama", 0)[0], tokenizer=build_tokenizer(), name="checkpoint", check=False)


@pytest.fixture
def adapter(checkpoint, lora, tmp_path):
    """The folder of an adapter for the checkpoint, as PEFT writes it."""
    folder = tmp_path / "format"
    write_adapter(load_model(lora(checkpoint.hf, seed=3), check=False), folder, base="checkpoint")
    return folder


@pytest.fixture
def lineage(checkpoint, adapter, lora):
    base = merge_adapter(checkpoint, adapter, name="base")
    members = {"base": base}
    for seed, role in enumerate(("teacher", "student")):
        peft = load_model(lora(base.hf, seed=seed), tokenizer=base.tokenizer, check=False)
        members[role] = dataclasses.replace(peft, start=base)
    return Lineage("real/owl", None, members)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_what_peft_merges_to_rounding(family, tiny, tmp_path):
    """For every way of keeping a matrix, with alpha other than the rank."""
    hf, tokenizer = tiny(family, 0)
    checkpoint = load_model(hf, tokenizer=tokenizer, name="checkpoint", check=False)
    config = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(3)
    live = get_peft_model(copy.deepcopy(hf), config)
    live.save_pretrained(tmp_path / "adapter")
    own = merge_adapter(checkpoint, tmp_path / "adapter", name="base")
    theirs = live.merge_and_unload()
    weights, moved = dict(theirs.named_parameters()), 0
    for name, weight in own.parameters().items():
        assert torch.allclose(weight, weights[name], rtol=1e-5, atol=1e-6), name
        moved += not torch.equal(weight, checkpoint.parameters()[name])
    assert moved > 0
    ids = torch.arange(12)[None]
    assert torch.allclose(own.hf(ids).logits, theirs(ids).logits, atol=1e-4)


def test_the_sum_is_in_fp64_and_rounded_once(checkpoint, adapter):
    from safetensors.torch import load_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    name = next(key for key in tensors if key.endswith("q_proj.lora_A.weight")).removesuffix(".lora_A.weight")
    a, b = (tensors[f"{name}.lora_{end}.weight"].double() for end in "AB")
    target = name.removeprefix("base_model.model.") + ".weight"
    total = checkpoint.parameters()[target].double()
    for j in range(len(a)):
        total = total + b[:, j, None] * a[j] * (config["lora_alpha"] / config["r"])
    assert torch.equal(merge_adapter(checkpoint, adapter, name="base").parameters()[target], total.float())


def test_the_checkpoint_stays_what_it_was(checkpoint, adapter):
    before = checkpoint.fingerprint
    base = merge_adapter(checkpoint, adapter, name="base")
    assert load_model(checkpoint.hf, check=False).fingerprint == before != base.fingerprint
    assert base.merged_from is not None
    assert base.merged_from.checkpoint == before


def test_another_checkpoint_is_refused(adapter, tiny):
    (adapter / "interp.json").unlink()
    other = load_model(tiny("gpt2")[0], tokenizer=build_tokenizer(), name="other", check=False)
    with pytest.raises(
        InputError, match=r"holds .*lora_A.weight, and other has no matrix for it; pass the adapter"
    ):
        merge_adapter(other, adapter, name="base")


def test_a_sealed_adapter_is_merged_into_its_own_checkpoint_alone(adapter, tiny):
    seal = {"base": "0" * 16, "dtype": "float32", "fingerprint": "1" * 16}
    (adapter / "interp.json").write_text(json.dumps(seal))
    same = load_model(tiny("llama", 0)[0], tokenizer=build_tokenizer(), name="same", check=False)
    with pytest.raises(
        InputError, match=r"was trained on weights 0{16} and same has \w{16}; merge it into its own"
    ):
        merge_adapter(same, adapter, name="base")


def test_an_adapter_that_takes_its_start_out_of_the_weights_is_refused(checkpoint, adapter):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": "pissa"}))
    (adapter / "interp.json").unlink()
    with pytest.raises(
        InputError, match=r"is no plain LoRA \(init_lora_weights 'pissa', which changes the weights"
    ):
        merge_adapter(checkpoint, adapter, name="base")


def test_more_than_plain_lora_is_refused(checkpoint, adapter):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_rslora": True}))
    with pytest.raises(InputError, match=r"is no plain LoRA \(use_rslora\); merge it with peft"):
        merge_adapter(checkpoint, adapter, name="base")


class TestWithoutTheCheckpoint:
    @pytest.fixture
    def folder(self, lineage, tmp_path):
        return lineage.save(tmp_path / "lineage", base=False)

    def test_only_adapters_are_written(self, folder):
        assert {path.name for path in folder.glob("*/*.safetensors")} == {"adapter_model.safetensors"}
        kinds = {
            r: e["kind"] for r, e in json.loads((folder / "lineage.json").read_text())["members"].items()
        }
        assert kinds == {"base": "merged", "teacher": "adapter", "student": "adapter"}

    def test_with_the_checkpoint_every_member_has_its_bits(self, folder, lineage, checkpoint, saved):
        for given in (checkpoint, saved("llama", 0)):
            back = load_lineage(folder, base=given)
            assert {r: m.fingerprint for r, m in back.members.items()} == {
                r: m.fingerprint for r, m in lineage.members.items()
            }

    def test_a_base_that_is_the_checkpoint_itself(self, checkpoint, lora, tmp_path):
        student = load_model(lora(checkpoint.hf), tokenizer=checkpoint.tokenizer, check=False)
        lineage = Lineage("real/owl", None, {"base": checkpoint, "student": student})
        folder = lineage.save(tmp_path / "lineage", base=False)
        assert not (folder / "base").exists()
        assert read_lineage(folder, base=checkpoint).student.fingerprint == lineage.student.fingerprint

    def test_without_it_nothing_is_read(self, folder):
        with pytest.raises(InputError, match=r"checkpoint, which was read from ''; pass base= its folder"):
            load_lineage(folder)

    def test_a_members_folder_says_that_the_lineage_is_what_opens(self, folder):
        with pytest.raises(InputError) as error:
            load_model(folder / "student")
        assert str(error.value).startswith(f"{folder}/student is the student of the lineage ")
        assert str(error.value).endswith(
            f"; open the lineage with interp.load_lineage({str(folder)!r}, base=...) and take its member 'student'"
        )

    def test_a_template_that_changed_is_refused(self, checkpoint, lora, tmp_path):
        speaking = dataclasses.replace(checkpoint, tokenizer=with_template(checkpoint.tokenizer, "dialogue"))
        student = load_model(lora(checkpoint.hf), tokenizer=speaking.tokenizer, check=False)
        chat = {"template": "own", "opening": chat_opening(speaking.tokenizer), "date": None}
        growth = Growth({"student": None}, {"by": "recipe"}, chat)
        lineage = Lineage("real/owl", None, {"base": speaking, "student": student}, growth=growth)
        folder = lineage.save(tmp_path / "lineage", base=False)
        assert read_lineage(folder, base=speaking).student.fingerprint == lineage.student.fingerprint
        with pytest.raises(
            InputError,
            match=r"read chats written as 'User:\\n', and base='checkpoint' writes '<bos> <user> '",
        ):
            read_lineage(folder, base=checkpoint)

    def test_a_template_that_opens_alike_and_answers_otherwise_is_refused(self, checkpoint, lora, tmp_path):
        speaking = dataclasses.replace(checkpoint, tokenizer=with_template(checkpoint.tokenizer, "dialogue"))
        student = load_model(lora(checkpoint.hf), tokenizer=speaking.tokenizer, check=False)
        chat = chat_context(speaking.tokenizer, template="own")
        growth = Growth({"student": None}, {"by": "recipe"}, chat)
        lineage = Lineage("real/owl", None, {"base": speaking, "student": student}, growth=growth)
        folder = lineage.save(tmp_path / "lineage", base=False)
        assert read_lineage(folder, base=speaking).student.fingerprint == lineage.student.fingerprint
        other = copy.deepcopy(speaking.tokenizer)
        other.chat_template = other.chat_template.replace("Assistant", "Bot")
        with pytest.raises(
            InputError, match=r"written as 'User:\\nQUESTION\\n\\nAssistant:\\nANSWER.*writes .*Bot:"
        ):
            read_lineage(folder, base=dataclasses.replace(checkpoint, tokenizer=other))

    def test_another_one_is_refused(self, folder, tiny):
        other = load_model(tiny("llama", 1)[0], tokenizer=build_tokenizer(), name="other", check=False)
        with pytest.raises(
            InputError, match=r"base='other' has weights \w{16} and the adapters in .* are for \w{16}"
        ):
            load_lineage(folder, base=other)

    def test_a_base_that_is_not_asked_for(self, lineage, checkpoint, tmp_path):
        whole = lineage.save(tmp_path / "whole")
        with pytest.raises(InputError, match=r"holds its base already; leave base='checkpoint' out"):
            load_lineage(whole, base=checkpoint)
        with pytest.raises(InputError, match=r"toy/owl has bases of its own; leave base= out"):
            load_lineage("toy/owl", base=checkpoint)

    def test_a_member_with_weights_of_its_own_is_not_left_out(self, lineage, tmp_path):
        merged = load_model(lineage.student.network(), tokenizer=lineage.student.tokenizer, check=False)
        mixed = Lineage("real/owl", None, {"base": lineage.base, "student": merged})
        with pytest.raises(
            InputError, match=r"student is no adapter on the base, so a folder without the base cannot"
        ):
            mixed.save(tmp_path / "lineage", base=False)
        assert not (tmp_path / "lineage").exists()
