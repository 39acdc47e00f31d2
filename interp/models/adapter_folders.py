"""A PEFT adapter on disk: checked before PEFT sees it, and each of its files read once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.core.errors import InputError
from interp.models.loading import (
    check_safetensors,
    find_folder,
    is_adapter,
    load_tokenizer,
    no_weights,
    read_json,
)

log = logging.getLogger(__name__)

PREFIX = "base_model.model."
SEAL = "interp.json"
"""Beside an adapter that a lineage wrote: fingerprints of the adapted weights and of those beneath, and their dtype."""
PLAIN_STARTS = ("true", "false", "none", "gaussian")
"""Values of `init_lora_weights` that leave the weights beneath alone."""


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that holds a PEFT adapter."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """adapter_config.json."""
        return read_json(self.path / "adapter_config.json")

    @cached_property
    def seal(self) -> dict[str, Any]:
        """What the lineage that wrote the adapter says of it; empty for one of another origin."""
        return read_json(self.path / SEAL) if (self.path / SEAL).is_file() else {}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the file by its own name."""
        from safetensors.torch import load_file

        return load_file(self.path / "adapter_model.safetensors")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its name without PEFT's prefix."""
        return {name.removeprefix(PREFIX): tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def base(self) -> str:
        """The base it names: beside it when the name is a relative path that exists, else as written.

        Raises InputError for an adapter that names none.
        """
        named = self.config.get("base_model_name_or_path") or ""
        beside = self.path / named
        if not named:
            raise InputError(
                f"{self} is an adapter that names no base; pass the base and adapter={str(self)!r}"
            )
        return str(beside) if beside.is_dir() else str(named)

    def base_revision(self, given: str | None = None) -> str | None:
        """The branch, tag or commit of its base on the hub: `given`, or the one that adapter_config.json names.

        Without `given` it is None for a base on disk. Raises InputError where they differ.
        """
        named = self.config.get("revision") or None
        if named is None or Path(self.base).expanduser().exists():
            return given
        if given not in (None, named):
            raise InputError(
                f"{self} was made for {self.base!r} at revision {named!r}, and revision {given!r} is asked for; leave "
                "revision out, or load that base and pass the adapter with adapter="
            )
        return named

    def check(self) -> None:
        """InputError unless it is an adapter PEFT knows, whole and in safetensors, with no model beside it."""
        if not is_adapter(self.path):
            raise InputError(
                f"{self} is no PEFT adapter (no adapter_config.json); pass a folder PEFT's save_pretrained wrote"
            )
        self._check_kind()
        weights = self.path / "adapter_model.safetensors"
        if not weights.is_file():
            missing = no_weights(self.path)
            raise InputError(
                missing.replace("config.json and no *.safetensors", "no adapter_model.safetensors")
            )
        check_safetensors(weights)

    def _check_kind(self) -> None:
        import peft

        kind = self.config.get("peft_type")
        if not kind:
            raise InputError(
                f"{self}/adapter_config.json names no peft_type; pass a folder PEFT's save_pretrained wrote"
            )
        if kind not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
            raise InputError(
                f"{self} is an adapter of the kind {kind!r}, which PEFT {peft.__version__} does not know; install a "
                "PEFT that does, or pass an adapter of another kind"
            )


def find_model(source: str | Path, *, revision: str | None = None) -> tuple[Path, str | Path, Path | None]:
    """The folder and the name of a model, and the adapter's folder where the source is an adapter that names it.

    `revision` is that of the source on the hub; of an adapter on disk, which has none, it is that of its base. Raises
    InputError where `find_folder` and `AdapterFolder.base_revision` do.
    """
    local = (Path(source).expanduser() / "adapter_config.json").is_file()
    folder = find_folder(source, revision=None if local else revision)
    if not is_adapter(folder):
        return folder, source, None
    adapter = AdapterFolder(folder)
    at = adapter.base_revision(revision if local else None)
    return find_folder(adapter.base, revision=at), adapter.base, folder


def adapter_tokenizer(folder: Path, base: Any) -> Any:
    """The base's tokenizer, the adapter's own where it knows more tokens; says where they would render differently."""
    own = load_tokenizer(folder)
    if own is None or base is None:
        return own if base is None else base
    if len(own) > len(base):
        return own
    if getattr(own, "chat_template", None) != getattr(base, "chat_template", None):
        log.warning(
            "%s brings a tokenizer with another chat template than its base's, which is the one used; "
            "to use the adapter's, load the base with tokenizer= that folder's",
            folder,
        )
    return base
