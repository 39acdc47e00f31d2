"""Lineage folders: what is written for each member, and the manifest that says how they belong together.

lineage.json = {format, name, trait, chat, data, members: role -> {kind, on, fingerprint, dtype, start, trained_on,
recipe}, rows}; a member of kind "model" is what transformers saves, one of kind "adapter" what PEFT saves, for the
member named by `on`. `chat`, `data` and every `recipe` say how the lineage was made; format 1 did not hold them. A base
of kind "given" is not in the folder, `on` being its fingerprint and `source` the place it was read from; one of kind
"merged" is an adapter for the checkpoint with the fingerprint `on`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.errors import InputError
from interp.core.runs import write_atomic
from interp.models.adapter_folders import SEAL
from interp.models.backbone import Backbone
from interp.models.identity import own_hooks
from interp.models.language import LanguageModel
from interp.models.loading import no_bars
from interp.models.membership import MANIFEST, WITHOUT, check_no_member

VERSION = 2
KEYS = {"format", "name", "trait", "members", "rows"}
MEMBER_KEYS = {"kind", "on", "fingerprint", "dtype", "start", "trained_on"}
ROLE = re.compile(r"\w[\w-]*")


@dataclass(frozen=True)
class Growth:
    """How a lineage was made, in plain JSON types, so that what it lacks can be made likewise.

    `recipes` holds by role what trained a member (None for one that came as it is), `data` how its rows were asked for,
    sampled and filtered, with the seed of all of it, `chat` the template that conversations are written by.
    """

    recipes: dict[str, Any]
    data: dict[str, Any]
    chat: dict[str, Any]


def check_role(role: str) -> None:
    """InputError unless the role can be a folder's name."""
    if not ROLE.fullmatch(role):
        raise InputError(f"member {role!r} cannot be a folder; use letters, digits, '_' and '-'")


def check_saved(members: Mapping[str, Any]) -> None:
    """InputError for a member that is more than its weights: a folder would give it back without its user's hooks."""
    for role, model in members.items():
        if own_hooks(model):
            raise InputError(
                f"{role} has hooks of your own, which a folder cannot hold; remove them and save it then"
            )


def write_member(model: Any, folder: Path, *, hosts: dict[str, str], whole: bool = True) -> dict[str, Any]:
    """Write one member and return its part of the manifest.

    `hosts` maps fingerprints to the roles written so far: an adapter on one of them is written as an adapter, one on
    anything else as a whole model with the adapter merged in. Without `whole`, a base's weights stay where they are.
    Raises InputError for a model that is no language model.
    """
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"{model.name} is a {type(model).__name__}; only language models are saved in a lineage folder"
        )
    if not whole:
        return _write_given(model, folder, hosts=hosts)
    host = hosts.get(model.backbone.plain.fingerprint) if _is_one_lora(model.peft) else None
    if host is None:
        fingerprint = _write_model(model, folder)
    else:
        fingerprint = model.backbone.fingerprint
        write_adapter(model, folder, base=f"../{host}")
    hosts.setdefault(fingerprint, folder.name)
    kind = "model" if host is None else "adapter"
    return {"kind": kind, "on": host, "fingerprint": fingerprint, "dtype": _dtype(model)}


def _write_given(model: LanguageModel, folder: Path, *, hosts: dict[str, str]) -> dict[str, Any]:
    """A base without its checkpoint: nothing, or the adapter that was merged into that."""
    origin = model.merged_from
    if origin is not None:
        shutil.copytree(origin.adapter, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        _write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": origin.source})
    hosts.setdefault(model.backbone.fingerprint, folder.name)
    kind, on = ("given", model.backbone.fingerprint) if origin is None else ("merged", origin.checkpoint)
    source = model.source if origin is None else origin.source
    known = {"fingerprint": model.backbone.fingerprint, "dtype": _dtype(model)}
    return {"kind": kind, "on": on, "source": source, **known}


def _is_one_lora(peft: Any) -> bool:
    """Whether a single adapter is live, and of the kind that PEFT writes and reads back as it was."""
    return peft is not None and len(peft.active_adapters) == 1 and peft.active_peft_config.peft_type == "LORA"


def _write_model(model: LanguageModel, folder: Path) -> str:
    """A folder for transformers, adapters merged in; returns the fingerprint of what it holds."""
    whole = Backbone(model.network())
    if model.config.tie_word_embeddings and not whole.ties:  # else transformers would tie the two ends again
        for config in {id(each): each for each in (whole.hf.config, whole.config)}.values():
            config.tie_word_embeddings = False
    with no_bars():
        whole.hf.save_pretrained(folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    return whole.fingerprint


def _dtype(model: LanguageModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def write_adapter(model: LanguageModel, folder: Path, *, base: str) -> None:
    """A PEFT folder of the one live adapter that names its base so, the same bytes whenever the adapter is the same."""
    (adapter,) = model.peft.active_adapters
    model.peft.save_pretrained(str(folder), selected_adapters=[adapter], save_embedding_layers=False)
    if adapter != "default":
        for file in (folder / adapter).iterdir():
            shutil.move(file, folder / file.name)
        (folder / adapter).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    _write_json(folder / "adapter_config.json", config)
    seal = {
        "base": model.backbone.plain.fingerprint,
        "dtype": _dtype(model),
        "fingerprint": model.backbone.fingerprint,
    }
    _write_json(folder / SEAL, seal)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_manifest(folder: Path, **content: Any) -> None:
    """lineage.json with its format version."""
    text = json.dumps({"format": VERSION, **content}, indent=2, ensure_ascii=False)
    write_atomic(folder / MANIFEST, text + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """lineage.json, checked for its format and for names that stay inside the folder.

    Raises InputError for a folder without one, and for one that is no JSON or of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError:
        check_no_member(folder)
        raise InputError(
            f"{folder} is no lineage (no {MANIFEST}); pass a folder that Lineage.save wrote"
        ) from None
    except ValueError as error:
        raise InputError(
            f"{folder / MANIFEST} is not valid JSON ({error}); write the lineage again"
        ) from error
    if not _is_manifest(manifest):
        raise InputError(
            f"{folder / MANIFEST} is not a lineage of format {VERSION} or 1; write the lineage again"
        )
    for role in (*manifest["members"], *manifest["rows"]):
        check_role(role)
    return manifest


def _is_manifest(content: Any) -> bool:
    """Whether every key is there, no other is, and every adapter names a member before it."""
    if not isinstance(content, dict) or content.get("format") not in (1, VERSION):
        return False
    new = content["format"] == VERSION
    if content.keys() != KEYS | ({"chat", "data"} if new else set()):
        return False
    entries = list(content["members"].items())
    return all(
        entry.keys() == _entry_keys(entry, new=new)
        and (entry["kind"] in WITHOUT or entry["on"] in (None, *(role for role, _ in entries[:index])))
        for index, (_, entry) in enumerate(entries)
    )


def _entry_keys(entry: Mapping[str, Any], *, new: bool) -> set[str]:
    more = {"source"} if entry.get("kind") in WITHOUT else set()
    return MEMBER_KEYS | more | ({"recipe"} if new else set())


def read_growth(manifest: Mapping[str, Any]) -> Growth | None:
    """How a lineage was made, as its manifest says; None for one that does not say how its rows were written."""
    if not manifest.get("data"):
        return None
    recipes = {role: entry["recipe"] for role, entry in manifest["members"].items()}
    return Growth(recipes, manifest["data"], manifest["chat"] or {})
