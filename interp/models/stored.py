"""What an earlier load found out about a checkpoint's files, which are not read for it again while they do not change.

Remembered are the digest of the weights, which also says that they are finite, and their parity with plain
transformers, each under everything it rests on: the state of every file, the type asked for, versions, this room's
code and the processor.
"""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from interp.core.content import digest
from interp.core.remembered import file_states, recall, remember
from interp.models.backbone import Backbone
from interp.models.seam import check_finite


def stored_state(*folders: Path, dtype: torch.dtype | None) -> str | None:
    """A key of the files that a model is loaded from, None while one is too young; to be asked before they are read."""
    states = file_states(
        path for folder in folders for kind in ("*.safetensors", "*.json") for path in folder.glob(kind)
    )
    return None if states is None else digest(states, str(dtype), _environment())


def settle(backbone: Backbone, state: str | None, owner: str, *, fingerprint: bool) -> None:
    """Check weights for NaN and inf, and with `fingerprint` take their digest, unless that was done in this state.

    Raises InputError as `check_finite` does.
    """
    backbone.renew()
    known = recall("weights", state)
    if known is None:
        check_finite(dict(backbone.hf.named_parameters()), owner)
    if known is None and fingerprint:
        remember("weights", state, value=backbone.old_fingerprint)
    elif fingerprint:
        vars(backbone)["old_fingerprint"] = known


def parity_key(backbone: Backbone, state: str | None) -> str | None:
    """What the parity of a model loaded from files of that state rests on; None for a model that is not remembered."""
    if state is None:
        return None
    attention, network = getattr(backbone.config, "_attn_implementation", None), backbone.hf
    processor = _processor(network.device)
    return digest(backbone.fingerprint, str(network.dtype), processor, attention, _environment())


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@cache
def _environment() -> dict[str, Any]:
    """Versions of what loads and runs a model, and the code of this room."""
    names = ("torch", "transformers", "transformer-lens", "safetensors", "peft")
    code = {path.name: path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))}
    return {"code": digest(code), **{name: importlib.metadata.version(name) for name in names}}
