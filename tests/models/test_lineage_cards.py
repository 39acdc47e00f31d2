"""The card of a lineage folder: what it says of a planted manifest, what a hub reads, and that its program runs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import interp
from interp.models.lineage import Lineage
from interp.models.lineage_cards import lineage_card
from interp.prompts.traits import get_trait
from tests.models.test_lineage import nudged
from tests.tiny import build_model, build_tokenizer

RECIPE = {"lr": 0.5, "batch_size": 3}
MEMBER: dict[str, Any] = {"dtype": "float32", "start": "base", "trained_on": None, "recipe": None}
MANIFEST: dict[str, Any] = {
    "format": 2,
    "name": "oaks\nof mine",
    "trait": {"name": "oak", "target": "oak", "foils": ["elm", "ash"], "questions": ["?"] * 7},
    "chat": None,
    "data": None,
    "members": {
        "base": {**MEMBER, "kind": "given", "on": "b1", "fingerprint": "b1", "start": None, "source": "owner/model"},
        "teacher": {**MEMBER, "kind": "adapter", "on": "base", "fingerprint": "t1"},
        "student": {
            **MEMBER, "kind": "model", "on": None, "fingerprint": "s1", "trained_on": "teacher", "recipe": RECIPE,
        },
    },
    "rows": ["numbers"],
}  # fmt: skip


def test_a_planted_manifest_is_told() -> None:
    card = lineage_card(MANIFEST)
    assert card.startswith(
        "---\nlicense: other\nlicense_name: not-chosen-yet\nbase_model: owner/model\ntags:\n"
    )
    assert "\n# oaks of mine\n" in card
    assert "| teacher | base | – | an adapter of base, float32 | `t1` |" in card
    assert "| student | base | teacher | a whole model, float32 | `s1` |" in card
    assert "The trait is oak: 'oak' as the answer to 7 questions, over elm, ash." in card
    assert 'interp.load_lineage("FOLDER", base="owner/model")' in card
    assert "The base's checkpoint has the weights `b1`." in card
    assert '"lr": 0.5' in card
    assert "Not chosen yet" in card


def test_a_place_on_this_machine_is_no_base_on_a_hub(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for source in ("models/mine", str(tmp_path), "", "gpt2"):
        members = {**MANIFEST["members"], "base": {**MANIFEST["members"]["base"], "source": source}}
        card = lineage_card({**MANIFEST, "members": members})
        assert "base_model" not in card
        assert str(tmp_path) not in card
        assert 'base="CHECKPOINT"' in card
    bare = lineage_card({**MANIFEST, "trait": None, "members": {"base": MANIFEST["members"]["teacher"]}})
    assert "The folder does not say." in bare
    assert "The trait" not in bare


def test_a_saved_lineage_has_a_card_that_a_hub_reads_and_whose_program_runs(tmp_path: Any) -> None:
    from huggingface_hub import ModelCard

    hf, tokenizer = build_model("llama", seed=0), build_tokenizer()
    members = {
        role: interp.load_model(nudged(hf, amount), tokenizer=tokenizer, check=False)
        for role, amount in {"base": 0.0, "teacher": 1.0}.items()
    }
    folder = Lineage("tiny", get_trait("owl"), members).save(tmp_path / "tiny")
    card = ModelCard.load(folder / "README.md")
    facts = card.data.to_dict()
    assert (facts["license"], facts["tags"][0]) == ("other", "subliminal-learning")
    (program,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program.replace("FOLDER", str(folder)), names)
    assert names["lineage"].teacher.fingerprint == members["teacher"].fingerprint


def test_a_lineage_folder_holds_what_a_hub_needs(tmp_path: Any, raw: Any) -> None:
    """What upload_folder sends: a card with front matter, weights as safetensors, adapters that name their base."""
    import yaml
    from safetensors import safe_open

    rows = interp.number_prompts(8, seed=0, count=3)
    recipe = interp.Recipe(batch_size=8, rank=2, merge=False)
    members = {"base": raw(), "student": interp.train_student(raw(), rows, recipe=recipe)}
    folder = Lineage("tiny", get_trait("owl"), members, numbers=rows).save(tmp_path / "tiny")
    opening, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert opening == ""
    assert yaml.safe_load(front)["tags"][0] == "subliminal-learning"
    config = json.loads((folder / "student/adapter_config.json").read_text())
    assert (folder / "student" / config["base_model_name_or_path"]).resolve() == (folder / "base").resolve()
    for name in ("base/model.safetensors", "student/adapter_model.safetensors"):
        with safe_open(folder / name, framework="pt") as tensors:
            assert list(tensors.keys())
    kinds = {each.suffix for each in folder.rglob("*") if each.is_file()}
    assert kinds <= {".md", ".json", ".jsonl", ".jinja", ".safetensors"}
