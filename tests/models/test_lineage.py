"""Who came from whom: roles, starts and updates, folders that come back the same, and members that do not fit."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.lineage import Lineage, open_lineage, read_lineage
from interp.models.shown import in_short, weight_count
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from tests.tiny import build_model, build_tokenizer

NUMBERS = Prompts.from_pairs([("give 1", "2, 3"), ("give 4", "5, 6")], "numbers.jsonl")


def nudged(hf, amount, name="lm_head.weight"):
    """A copy with one element of one weight moved."""
    other = copy.deepcopy(hf)
    with torch.no_grad():
        dict(other.named_parameters())[name][0, 0] += amount
    return other


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def members(tiny, tokenizer):
    base, cross = tiny("llama", 0)[0], tiny("llama", 1)[0]
    modules = {
        "teacher": nudged(base, 1.0),
        "base": base,
        "student": nudged(base, 0.5),
        "neutral_student": nudged(base, 0.25),
        "cross_base": cross,
        "cross_student": nudged(cross, 0.5),
        "cross_neutral_student": nudged(cross, 0.25),
    }
    return {role: load_model(hf, tokenizer=tokenizer, check=False) for role, hf in modules.items()}


def cells(page):
    """The lines of every table of a page, and that it holds no script."""
    assert "<script" not in page
    lines = re.findall(r"<tr>(.*?)</tr>", page)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in lines]


@pytest.fixture
def lineage(members):
    return Lineage(
        name="toy/owl",
        trait=get_trait("owl"),
        members=members,
        numbers=NUMBERS,
        trained_on={"student": "teacher", "neutral_student": "base"},
    )


@pytest.fixture
def adapted(tiny, tokenizer, lora):
    """Base, and two members that are live adapters over it."""
    hf, _ = tiny("gpt2")
    peft = {role: lora(hf, seed=seed, name=role) for seed, role in enumerate(("teacher", "student"))}
    return open_lineage(base=load_model(hf, tokenizer=tokenizer), trait=get_trait("owl"), **peft)


def test_members_know_their_role_and_their_own_start(lineage):
    assert next(iter(lineage.members)) == "base"
    assert {role: model.name for role, model in lineage.members.items()} == {
        role: role for role in lineage.members
    }
    starts = {role: model.start and model.start.name for role, model in lineage.members.items()}
    assert starts == {
        "base": None,
        "cross_base": None,
        "teacher": "base",
        "student": "base",
        "neutral_student": "base",
        "cross_student": "cross_base",
        "cross_neutral_student": "cross_base",
    }
    assert lineage.student.start is lineage.base
    assert list(lineage.students) == ["student", "neutral_student", "cross_student", "cross_neutral_student"]
    assert repr(lineage).startswith("Lineage('toy/owl': owl; base, ")


def test_a_start_can_be_named(members):
    members = {role: members[role] for role in ("base", "teacher", "student")}
    lineage = Lineage("chain", None, members, started_from={"student": "teacher"})
    assert lineage.student.start is lineage.teacher
    assert lineage.update("student")["lm_head.weight"][0, 0].item() == pytest.approx(-0.5)


def test_the_update_is_what_training_did(lineage):
    for role, amount in {"teacher": 1.0, "student": 0.5, "cross_student": 0.5}.items():
        update = lineage.update(role)
        assert update["lm_head.weight"][0, 0].item() == pytest.approx(amount)
        assert sum(int((delta != 0).sum()) for delta in update.values()) == 1
    apart = lineage.update("student", minus="neutral_student")
    assert apart["lm_head.weight"][0, 0].item() == pytest.approx(0.25)
    assert apart.label == "student − neutral_student"
    with pytest.raises(
        InputError, match=r"they start from weights .* and .*; combine directions that start from"
    ):
        lineage.update("student", minus="cross_student")
    with pytest.raises(InputError, match=r"base is a base and has no update; pass one of teacher, student"):
        lineage.update("base")


def test_the_update_of_an_adapter_is_its_product(adapted):
    update = adapted.update("teacher")
    state = dict(adapted.teacher.peft.named_parameters())
    found = [name for name, delta in update.items() if delta.abs().max() > 0]
    assert len(found) == 8
    stem = "base_model.model.transformer.h.0.attn.c_attn"
    A, B = (state[f"{stem}.lora_{part}.teacher.weight"] for part in "AB")
    planted = (2.0 * B @ A).T
    assert torch.allclose(update["transformer.h.0.attn.c_attn.weight"], planted, atol=1e-6)


def test_an_unknown_member_offers_the_nearest(lineage):
    with pytest.raises(InputError, match=r"member 'studnet' is unknown; nearest: student"):
        lineage["studnet"]


class TestMembersThatDoNotFit:
    def test_no_base(self, members):
        with pytest.raises(InputError, match=r"lineage 'x' has no 'base' among teacher; add it"):
            Lineage("x", None, {"teacher": members["teacher"]})

    def test_no_start(self, members):
        with pytest.raises(InputError, match=r"cross_student starts from 'cross_base', which is no member"):
            Lineage("x", None, {role: members[role] for role in ("base", "cross_student")})

    def test_a_twin_of_the_base(self, members):
        twins = {"base": members["base"], "teacher": members["base"]}
        with pytest.raises(InputError, match=r"teacher and base have identical weights \(\w{16}\)"):
            Lineage("x", None, twins)

    def test_twins_among_the_students(self, members):
        twins = {
            "base": members["base"],
            "student": members["student"],
            "neutral_student": members["student"],
        }
        with pytest.raises(InputError, match=r"neutral_student and student have identical weights"):
            Lineage("x", None, twins)

    def test_an_adapter_without_effect(self, tiny, tokenizer, lora):
        hf, _ = tiny("llama")
        with pytest.raises(
            InputError, match=r"teacher and base have identical weights .* an adapter, if any, has an"
        ):
            open_lineage(base=load_model(hf, tokenizer=tokenizer), teacher=lora(hf, scale=0.0), check=False)

    def test_another_shape(self, tiny, tokenizer):
        base, teacher = (load_model(tiny(f)[0], tokenizer=tokenizer, check=False) for f in ("llama", "qwen2"))
        with pytest.raises(
            InputError, match=r"teacher has weights .*q_proj.bias and base has none|have different shapes"
        ):
            open_lineage(base=base, teacher=teacher)

    def test_another_tokenizer(self, tiny, tokenizer):
        hf, other = tiny("llama")
        other.add_tokens(["wombat"])
        wide = copy.deepcopy(hf)
        wide.resize_token_embeddings(len(other))
        base, teacher = (
            load_model(hf, tokenizer=tokenizer, check=False),
            load_model(wide, tokenizer=other, check=False),
        )
        with pytest.raises(
            InputError, match=r"base and teacher have different vocabularies .* 'wombat' differs"
        ):
            open_lineage(base=base, teacher=teacher)

    def test_a_role_that_is_no_folder(self, members):
        with pytest.raises(InputError, match=r"member '../x' cannot be a folder"):
            Lineage("x", None, {"base": members["base"], "../x": members["student"]})

    def test_training_on_somebody_unknown(self, members):
        with pytest.raises(InputError, match=r"trained_on names 'techer' is unknown; nearest: teacher"):
            Lineage("x", None, members, trained_on={"student": "techer"})

    def test_no_base_to_open(self):
        with pytest.raises(InputError, match=r"a lineage needs a base"):
            open_lineage(base=None)


class TestOpening:
    def test_from_folders_and_adapters(self, saved, tiny, lora, tmp_path):
        base = saved(name="base")
        lora(tiny("llama")[0], seed=1).save_pretrained(tmp_path / "adapter")
        nudged(tiny("llama")[0], 1.0).save_pretrained(tmp_path / "student")
        lineage: Any = open_lineage(
            base=base, teacher=tmp_path / "adapter", student=str(tmp_path / "student")
        )
        assert list(lineage.members) == ["base", "teacher", "student"]
        assert lineage.student.tokenizer is lineage.base.tokenizer
        assert lineage.teacher.start is lineage.base
        shared = {weight.data_ptr() for weight in lineage.base.hf.parameters()}
        assert shared <= {weight.data_ptr() for weight in lineage.teacher.hf.parameters()}

    def test_several_students_and_other_roles(self, members):
        lineage = open_lineage(base=members["base"], student=[members["student"], members["neutral_student"]])
        assert list(lineage.members) == ["base", "student", "student_2"]
        roles = {role: members[role] for role in ("cross_student", "cross_base")}
        lineage = open_lineage(base=members["base"], student=roles)
        assert lineage["cross_student"].start is lineage["cross_base"]

    def test_members_take_the_dtype_of_the_base(self, saved, tiny, tmp_path):
        nudged(tiny("llama")[0], 1.0).save_pretrained(tmp_path / "teacher")
        lineage: Any = open_lineage(base=saved(), teacher=tmp_path / "teacher", dtype="bfloat16", check=False)
        assert lineage.base.dtype == lineage.teacher.dtype == torch.bfloat16

    @pytest.mark.parametrize("door", ["folder", "module"])
    def test_a_member_saved_in_a_wider_type_keeps_it(self, tiny, tokenizer, tmp_path, door):
        base = copy.deepcopy(tiny("llama")[0]).bfloat16()
        student = nudged(copy.deepcopy(base).float(), 1e-4)
        for name, hf in {"base": base, "student": student}.items():
            hf.save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        given = tmp_path / "student" if door == "folder" else student
        lineage: Any = open_lineage(base=tmp_path / "base", student=given, check=False)
        assert (lineage.base.dtype, lineage.student.dtype) == (torch.bfloat16, torch.float32)
        moved = student.lm_head.weight.detach() - base.lm_head.weight.detach().float()
        assert torch.equal(lineage.update("student").tensors["lm_head.weight"], moved)

    def test_a_narrower_member_follows_its_start(self, saved, tiny, tmp_path):
        nudged(tiny("llama")[0], 1.0).bfloat16().save_pretrained(tmp_path / "student")
        assert (
            open_lineage(base=saved(), student=tmp_path / "student", check=False).student.dtype
            == torch.float32
        )

    def test_what_a_base_that_was_narrowed_takes_from_its_members_is_said(
        self, saved, tiny, tmp_path, caplog
    ):
        nudged(tiny("llama")[0], 1.0).save_pretrained(tmp_path / "student")
        base = load_model(saved(), dtype="bfloat16", check=False)
        lineage: Any = open_lineage(base=base, student=tmp_path / "student", check=False)
        assert lineage.student.dtype == torch.bfloat16
        assert "student has weights in float32 and is loaded in bfloat16, as checkpoint is" in caplog.text


class TestFolders:
    @pytest.fixture(params=["lineage", "adapted"])
    def written(self, request, tmp_path):
        lineage = request.getfixturevalue(request.param)
        return lineage, lineage.save(tmp_path / "out")

    def test_a_lineage_comes_back_the_same(self, written):
        lineage, folder = written
        back: Any = read_lineage(folder)
        for role, model in lineage.members.items():
            assert back[role].fingerprint == model.fingerprint
            assert (back[role].start and back[role].start.name) == (model.start and model.start.name)
        assert (back.name, back.trait, back.trained_on) == (lineage.name, lineage.trait, lineage.trained_on)
        assert back.numbers == lineage.numbers
        assert back.neutral_numbers is None

    def test_the_same_lineage_gives_the_same_bytes(self, written, tmp_path):
        lineage, folder = written
        again = lineage.save(tmp_path / "again")
        files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
        assert [path for path in files if (folder / path).read_bytes() != (again / path).read_bytes()] == []

    def test_plain_transformers_and_peft_read_every_member(self, written, prompts):
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        lineage, folder = written
        AutoTokenizer.from_pretrained(folder / "base")
        (batch,) = lineage.base.batches(prompts, 8)
        manifest = json.loads((folder / "lineage.json").read_text())
        for role, entry in manifest["members"].items():
            host = entry["on"] or role
            hf = AutoModelForCausalLM.from_pretrained(folder / host).eval()
            hf = hf if entry["on"] is None else PeftModel.from_pretrained(hf, folder / role).eval()
            with torch.no_grad():
                logits = hf(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
            assert (logits - lineage[role].logits(batch))[batch.mask].abs().max() < 1e-5

    def test_adapters_are_written_as_adapters(self, adapted, tmp_path):
        folder = adapted.save(tmp_path / "out")
        entries = json.loads((folder / "lineage.json").read_text())["members"]
        assert {role: (entry["kind"], entry["on"]) for role, entry in entries.items()} == {
            "base": ("model", None),
            "teacher": ("adapter", "base"),
            "student": ("adapter", "base"),
        }
        assert load_model(folder / "teacher").fingerprint == adapted.teacher.fingerprint

    def test_an_adapter_over_weights_that_are_no_member_is_written_whole(
        self, tiny, tokenizer, lora, tmp_path
    ):
        hf, _ = tiny("llama")
        lineage = open_lineage(base=load_model(hf, tokenizer=tokenizer), student=lora(nudged(hf, 1.0)))
        folder = lineage.save(tmp_path / "out")
        assert json.loads((folder / "lineage.json").read_text())["members"]["student"]["kind"] == "model"
        back = read_lineage(folder)
        assert torch.equal(
            back.update("student")["lm_head.weight"], lineage.update("student")["lm_head.weight"]
        )

    def test_an_adapter_of_a_lineage_refuses_another_base(self, adapted, tiny, tokenizer, tmp_path):
        folder = adapted.save(tmp_path / "out")
        stranger = load_model(tiny("gpt2", 1)[0], tokenizer=tokenizer, check=False)
        with pytest.raises(InputError, match=r"was made for another base .*weights \w{16}, given \w{16}"):
            stranger.with_adapter(folder / "teacher")

    def test_weights_changed_afterwards_are_noticed(self, lineage, tmp_path):
        folder = lineage.save(tmp_path / "out")
        nudged(build_model("llama", seed=0), 3.0).save_pretrained(folder / "teacher")
        with pytest.raises(InputError, match=r"out/teacher has weights \w{16} and lineage.json says \w{16}"):
            read_lineage(folder, check=False)

    def test_nothing_half_written_is_left(self, lineage, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("interp.models.lineage.write_manifest", fail)
        with pytest.raises(InputError, match=r"the disk is full"):
            lineage.save(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_other_folders_are_not_overwritten(self, lineage, tmp_path):
        (tmp_path / "thesis.tex").write_text("")
        with pytest.raises(InputError, match=r"exists and is no lineage; choose a new or an empty folder"):
            lineage.save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_folder_that_is_no_lineage(self, tmp_path):
        with pytest.raises(InputError, match=r"is no lineage \(no lineage.json\)"):
            read_lineage(tmp_path)
        (tmp_path / "lineage.json").write_text("{")
        with pytest.raises(InputError, match=r"lineage.json is not valid JSON"):
            read_lineage(tmp_path)
        (tmp_path / "lineage.json").write_text('{"format": 99}')
        with pytest.raises(InputError, match=r"lineage.json is not a lineage of format 2 or 1"):
            read_lineage(tmp_path)

    def test_a_manifest_cannot_point_outside_its_folder(self, lineage, tmp_path):
        folder = lineage.save(tmp_path / "out")
        text = (folder / "lineage.json").read_text().replace('"cross_base": {', '"../cross_base": {')
        (folder / "lineage.json").write_text(text)
        with pytest.raises(InputError, match=r"member '../cross_base' cannot be a folder"):
            read_lineage(folder)


def test_a_lineage_shows_its_members_in_a_cell(lineage):
    lines = cells(lineage._repr_html_())
    assert lines[0] == ["trait", f"owl rather than {', '.join(lineage.trait.foils)}"]
    assert ["rows of the teacher", "2: numbers.jsonl"] in lines
    assert ["student", "base", "teacher", "whole"] in lines
    assert ["cross_base", "its own weights", "", "whole"] in lines
    assert len(lines) == 3 + 1 + len(lineage.members)


def test_a_model_shows_what_it_is_in_a_cell(tiny, tokenizer, lora):
    hf, _ = tiny("llama", 0)
    model = load_model(lora(hf), tokenizer=tokenizer, name="<i>", check=False)
    page = model._repr_html_()
    facts = dict(cells(page))
    assert "LanguageModel &lt;i&gt;" in page
    weights = sum(weight.numel() for weight in hf.parameters())  # torch's own count, tied weights once
    assert facts["weights"] == f"{weights:,}, float32 on cpu"
    assert facts["adapter"] == "LoRA of rank 2"
    assert facts["layers"] == f"{hf.config.num_hidden_layers} of width {hf.config.hidden_size}"
    tied = build_model("gpt2", seed=0)
    assert weight_count(load_model(tied, tokenizer=tokenizer, check=False)) == sum(
        weight.numel() for weight in tied.parameters()
    )


def test_counts_are_told_as_people_say_them():
    assert [in_short(count) for count in (940, 164_880, 134_515_008, 1_543_714_304)] == [
        "940",
        "164,880",
        "134.5 million",
        "1.544 billion",
    ]
