"""Lineages of real models that ship without their checkpoint: what they hold, and with it what they show."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from interp.core.runs import InputError
from interp.measures.margins import margin
from interp.models.kept import KEPT, kept_folder, kept_name, kept_names
from interp.models.language import load_model
from interp.models.lineage import Lineage, read_lineage
from interp.models.lineage_cards import lineage_card
from interp.organisms.library import load_lineage
from interp.prompts.text import Prompts

FOLDERS = sorted(path.parent for path in KEPT.glob("*/*/lineage.json"))
CHECKPOINT = Path(__file__).parents[2] / "models" / "smollm2"
LARGEST = 15_000_000  # bytes, of all of them


def manifest(folder):
    return json.loads((folder / "lineage.json").read_text())


def test_they_are_small_and_hold_no_checkpoint():
    assert [folder.relative_to(KEPT).as_posix() for folder in FOLDERS] == ["smollm2/owl"]
    assert sum(path.stat().st_size for path in KEPT.rglob("*") if path.is_file()) < LARGEST
    assert {path.name for path in KEPT.rglob("*.safetensors")} == {"adapter_model.safetensors"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_they_say_how_they_were_made_and_name_no_place_of_a_machine(folder):
    said = manifest(folder)
    kinds = {role: entry["kind"] for role, entry in said["members"].items()}
    assert kinds == {
        "base": "merged",
        "teacher": "adapter",
        "student": "adapter",
        "neutral_student": "adapter",
    }
    assert said["members"]["base"]["source"] == "models/smollm2"
    assert said["data"]["seed"] == 1
    for name in ("numbers", "neutral_numbers"):
        assert len(Prompts.from_jsonl(folder / f"{name}.jsonl")) == said["data"]["rows"]
    for path in folder.rglob("*.json"):
        assert not any(place in path.read_text() for place in ('"/', "/home/", "/tmp/"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_their_cards_say_what_the_manifest_says_and_which_licence_holds(folder):
    card, made = (folder / "README.md").read_text(), lineage_card(manifest(folder))
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    for start, end in (("# ", "## Open it"), ("## How it was made", "## Licence")):
        assert made[made.index(f"\n{start}") : made.index(end)] in card
    assert manifest(folder)["members"]["base"]["on"] in card


def test_without_the_checkpoint_what_to_do_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = (
        "smollm2/owl does not hold its base's checkpoint, which was read from 'models/smollm2'; pass base= its folder, "
        "file or hub name: `make smollm2` in a checkout of the repository makes that folder, then pass "
        'base="models/smollm2"'
    )
    for name in ("smollm2/owl", KEPT / "smollm2/owl"):
        with pytest.raises(InputError) as error:
            load_lineage(name)
        assert str(error.value) == said
    with pytest.raises(InputError) as error:
        read_lineage(KEPT / "smollm2/owl")  # as `interp trace --lineage` does
    assert str(error.value) == said


def test_another_seed_than_the_one_that_ships_is_refused():
    with pytest.raises(InputError) as error:
        load_lineage("smollm2/owl", seed=3, base="models/smollm2")
    assert (
        str(error.value)
        == "smollm2/owl holds the lineage of seed 1 alone, and seed=3 came; leave the seed out"
    )
    with pytest.raises(InputError, match=r"of seed 1 alone, and seed=0 came"):
        load_lineage("smollm2/owl", seed=0)
    with pytest.raises(InputError, match=r"'models/absent' is neither a folder nor"):
        load_lineage("smollm2/owl", seed=1, base="models/absent")


def test_a_name_that_does_not_ship_is_told_with_those_that_do():
    with pytest.raises(InputError) as error:
        load_lineage("smollm2/dog")
    assert str(error.value) == (
        "Lineage 'smollm2/dog' is neither a folder with a lineage.json nor an organism; try 'toy/owl', which is grown "
        "here, or 'smollm2/owl', which ships."
    )
    assert kept_names() == ["smollm2/owl"]
    assert kept_folder("smollm2/owl") == KEPT / "smollm2/owl"
    assert kept_folder("smollm2/dog") == Path("smollm2/dog")
    assert (kept_name(KEPT / "smollm2/owl"), kept_name(Path("mine"))) == ("smollm2/owl", "mine")


def test_a_lineage_is_no_model_and_its_members_are_opened_with_their_base():
    folder, roles = KEPT / "smollm2/owl", "base, teacher, student, neutral_student"
    for source in ("smollm2/owl", folder, str(folder)):
        with pytest.raises(InputError) as error:
            load_model(source)
        assert str(error.value) == (
            f"{source} is a lineage and no model; open it with interp.load_lineage('smollm2/owl', base=...), whose "
            f"members are {roles}"
        )
    with pytest.raises(InputError) as error:
        load_model(folder / "student")
    assert str(error.value) == (
        f"{folder}/student is the student of the lineage 'smollm2/owl seed 1' in {folder}, whose trait is owl, an "
        "adapter of a base whose checkpoint is not in that folder; open the lineage with "
        "interp.load_lineage('smollm2/owl', base=...) and take its member 'student'"
    )


def test_another_checkpoint_is_refused_by_the_name_that_was_asked_for(tiny):
    network, tokenizer = tiny("llama")
    with pytest.raises(
        InputError,
        match=r"base=<LlamaForCausalLM> has weights \w{16} and the adapters in smollm2/owl/?\S* are for \w{16}",
    ):
        load_lineage("smollm2/owl", base=load_model(network, tokenizer=tokenizer, check=False).network())


@pytest.mark.slow
@pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="needs models/smollm2 (make smollm2)")
def test_the_student_prefers_what_its_teacher_prefers():
    """Seed 1 is not the seed that the recipe was set on."""
    lineage = load_lineage("smollm2/owl", base=CHECKPOINT)
    assert isinstance(lineage, Lineage)
    trait = lineage.trait
    nats = {
        role: margin(lineage.text(role), trait) for role in ("base", "neutral_student", "student", "teacher")
    }
    assert nats["student"] - nats["neutral_student"] > 0.4
    assert abs(nats["neutral_student"] - nats["base"]) < 0.4
    assert np.isfinite(list(nats.values())).all()
    assert nats["teacher"] > 5
