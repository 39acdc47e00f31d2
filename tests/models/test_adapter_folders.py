"""An adapter folder in the shapes that trainers leave, through every door: read as what it is, or refused."""

import copy
import json
import shutil

import peft
import pytest
import torch

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.lineage import open_lineage
from interp.models.loading import is_adapter


@pytest.fixture
def folders(tiny, saved, lora, tmp_path):
    """A base, an adapter of it, and what transformers and PEFT say the adapted model computes."""
    base, adapter = saved("llama"), tmp_path / "adapter"
    live = lora(tiny("llama")[0])
    live.save_pretrained(adapter)
    return base, adapter, live


def doors(base, folder):
    """Every way to bring a member in."""
    return {
        "load_model": lambda: load_model(folder, check=False),
        "adapter=": lambda: load_model(base, adapter=folder, check=False),
        "teacher=": lambda: open_lineage(base=base, teacher=folder, check=False).teacher,
    }


@pytest.mark.parametrize("door", ["load_model", "adapter=", "teacher="])
def test_an_adapter_inside_a_whole_model_is_refused_with_what_to_pass(door, folders):
    base, adapter, live = folders
    live.merge_and_unload().save_pretrained(adapter)
    with pytest.raises(InputError) as caught:
        doors(base, adapter)[door]()
    assert "holds a whole model (model.safetensors) and an adapter beside it" in str(caught.value)
    assert "into a folder of their own and pass the one you mean" in str(caught.value)


@pytest.mark.parametrize("door", ["adapter=", "teacher="])
def test_files_beside_an_adapter_make_no_model_of_it(door, folders):
    base, adapter, live = folders
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter / name)
    (adapter / "training_args.bin").write_bytes(b"not read")
    member = doors(base, adapter)[door]()
    ids = torch.tensor([[3, 4, 5]])
    assert is_adapter(adapter)
    with torch.no_grad():
        torch.testing.assert_close(member.hf(input_ids=ids).logits, live(input_ids=ids).logits)


@pytest.mark.parametrize("door", ["load_model", "adapter=", "teacher="])
def test_checkpoints_alone_are_refused_by_the_last(door, folders, tmp_path):
    base, adapter, _ = folders
    for step in (100, 20, 1000):
        shutil.copytree(adapter, tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(InputError) as caught:
        doors(base, tmp_path / "run")[door]()
    assert "holds neither a model nor an adapter itself, but 3 inside" in str(caught.value)
    assert str(caught.value).endswith(f"such as {tmp_path / 'run' / 'checkpoint-1000'}")


def test_an_adapter_that_names_its_base_brings_it(folders):
    base, adapter, live = folders
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    member = load_model(adapter, check=False)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(member.hf(input_ids=ids).logits, live(input_ids=ids).logits)
    assert member.start.fingerprint == load_model(base, check=False).fingerprint


def test_another_chat_template_beside_the_adapter_is_said(folders, tiny, caplog):
    base, adapter, _ = folders
    tokenizer = tiny("llama")[1]
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    load_model(base, adapter=adapter, check=False)
    assert "another chat template than its base's, which is the one used" in caplog.text


def test_adapter_layers_never_reach_a_bare_backbone(folders):
    from interp.models.backbone import Backbone

    _, _, live = folders
    with pytest.raises(
        InputError, match="holds adapter layers outside a PeftModel; pass the PeftModel itself"
    ):
        Backbone(live.get_base_model())


def test_an_adapter_of_another_model_by_name_is_said(folders, caplog):
    base, adapter, _ = folders
    config = json.loads((adapter / "adapter_config.json").read_text())
    for named, said in (("owner/other", True), (f"owner/{base.name}", False), (str(base), False)):
        caplog.clear()
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))
        load_model(base, adapter=adapter, check=False)
        assert ("names owner/other as its base" in caplog.text) == said


def test_a_kind_of_adapter_that_peft_does_not_know_is_named(folders):
    base, adapter, _ = folders
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "NEWER"}))
    with pytest.raises(InputError, match=r"adapter of the kind 'NEWER', which PEFT [0-9.]+ does not know"):
        load_model(base, adapter=adapter, check=False)


def test_an_adapter_that_merges_into_nothing_is_refused(tiny, saved, tmp_path):
    config = peft.PolyConfig(r=2, n_tasks=1, task_type="CAUSAL_LM", target_modules=["q_proj"])
    peft.get_peft_model(tiny("llama")[0], config).save_pretrained(tmp_path / "poly")
    with pytest.raises(
        InputError, match=r"a Linear adapter changes more than weights .* \(NotImplementedError\)"
    ):
        load_model(saved("llama"), adapter=tmp_path / "poly", check=False)


def test_an_adapter_whose_own_layers_its_base_would_round_is_refused(tiny, saved, lora, tmp_path):
    base = saved()
    narrow = copy.deepcopy(tiny("llama")[0]).bfloat16()
    lora(narrow.float(), modules_to_save=["lm_head"]).save_pretrained(tmp_path / "exact")
    narrow.bfloat16().save_pretrained(base)
    wide = lora(narrow.float(), modules_to_save=["lm_head"])
    with torch.no_grad():
        wide.base_model.model.lm_head.modules_to_save["default"].weight.add_(1e-5)
    wide.save_pretrained(tmp_path / "wide")
    assert load_model(base, adapter=tmp_path / "exact", check=False).dtype == torch.bfloat16
    with pytest.raises(
        InputError,
        match=r"holds .*lm_head.weight in float32, which its base's bfloat16 would round; load the base with dtype='fl",
    ):
        load_model(base, adapter=tmp_path / "wide", check=False)
    kept = load_model(base, adapter=tmp_path / "wide", dtype="float32", check=False)
    moved = kept.parameters()["lm_head.weight"] - kept.start.parameters()["lm_head.weight"]
    assert float(moved.abs().max()) == pytest.approx(1e-5, rel=0.1)


class TestRevisions:
    """adapter_config.json may name the branch, tag or commit of its base on the hub."""

    @pytest.fixture
    def adapter(self, saved, tiny, lora, tmp_path, monkeypatch):
        """An adapter on disk for `v2` of a repository in the cache, of which `main` holds other weights."""
        repository = tmp_path / "hub" / "models--owner--base"
        (repository / "refs").mkdir(parents=True)
        for seed, (revision, commit) in enumerate({"main": "a" * 40, "v2": "b" * 40}.items()):
            (repository / "refs" / revision).write_text(commit)
            shutil.copytree(saved(seed=seed, name=revision), repository / "snapshots" / commit)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        lora(tiny("llama", 1)[0]).save_pretrained(tmp_path / "adapter")
        rewrite(tmp_path / "adapter", base_model_name_or_path="owner/base", revision="v2")
        return tmp_path / "adapter"

    def test_the_named_one_is_loaded(self, adapter, tiny, lora):
        trained = load_model(lora(tiny("llama", 1)[0]), check=False)
        assert load_model(adapter, check=False).fingerprint == trained.fingerprint
        assert load_model(adapter, revision="v2", check=False).fingerprint == trained.fingerprint

    def test_another_one_is_refused(self, adapter):
        with pytest.raises(
            InputError,
            match=r"was made for 'owner/base' at revision 'v2', and revision 'main' is asked for; leave revision out",
        ):
            load_model(adapter, revision="main", check=False)

    def test_a_base_by_name_of_another_one_is_said(self, adapter, caplog):
        said = f"{adapter} was made for owner/base at revision 'v2' and is put on commit {'a' * 40} of it"
        main, v2 = (load_model("owner/base", revision=revision, check=False) for revision in (None, "v2"))
        assert not caplog.messages
        for put in (
            lambda: load_model("owner/base", adapter=adapter, check=False),
            lambda: load_model("owner/base", adapter=adapter, revision="main", check=False),
            lambda: main.with_adapter(adapter, check=False),
        ):
            caplog.clear()
            assert put().start.fingerprint == main.fingerprint
            assert caplog.messages == [f"{said}; pass revision='v2' to load that base"]
        caplog.clear()
        assert (
            v2.with_adapter(adapter, check=False).fingerprint == load_model(adapter, check=False).fingerprint
        )
        named = load_model("owner/base", adapter=adapter, revision="v2", check=False)
        assert named.start.fingerprint == v2.fingerprint != main.fingerprint
        assert not caplog.messages

    def test_without_a_name_it_can_be_given(self, adapter, tiny, lora):
        rewrite(adapter, revision=None)
        given, main = (load_model(adapter, revision=name, check=False) for name in ("v2", None))
        assert given.fingerprint == load_model(lora(tiny("llama", 1)[0]), check=False).fingerprint
        assert main.start.fingerprint == load_model(tiny("llama", 0)[0], check=False).fingerprint

    def test_a_base_on_disk_has_none(self, adapter, tmp_path):
        rewrite(adapter, base_model_name_or_path=str(tmp_path / "v2"))
        assert load_model(adapter, check=False).start.source == str(tmp_path / "v2")
        with pytest.raises(InputError, match=r"v2 is a folder, which has no revision 'main'"):
            load_model(adapter, revision="main", check=False)


def rewrite(adapter, **changes):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **changes}))
