"""PEFT adapters from folders onto a base that stays what it was, byte for byte.

An adapter is loaded onto a view that shares the base's storage. Some files write into weights beneath the adapter too
(biases, embedding layers, a start that is taken out of the weights): those get storage of their own first. Afterwards
every tensor of the file must be found live, the network must compute what its merged weights compute, and the base
must hold the bits it held.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.runs import InputError
from interp.models.backbone import Backbone
from interp.models.isolation import isolated
from interp.models.loading import SEAL, check_adapter_folder, first_line, read_json
from interp.models.seam import check_finite
from interp.models.views import view

log = logging.getLogger(__name__)

PREFIX = "base_model.model."
PLAIN_STARTS = ("true", "false", "none", "gaussian")
"""Values of `init_lora_weights` that leave the weights beneath alone."""
EMBEDDINGS = ("get_input_embeddings", "get_output_embeddings")
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # RMS norms work in fp32 whatever the weights are
HALF_TOLERANCE = 0.5  # nats at one token in 16 bits: large models reach tenths, a lost adapter whole nats


@isolated()
def attach_adapters(backbone: Backbone, folders: Sequence[Path]) -> Backbone:
    """The backbone with PEFT adapters live on it, their effects added up; the backbone itself is left alone.

    Raises InputError for a folder without a whole adapter, for one made for another base, for one whose effect is not
    that of changed weights, and for several of which one brings weights of its own.
    """
    for folder in folders:
        check_adapter_folder(folder)
        _check_seal(folder, backbone)
        _say_other_name(folder, backbone)
    if len(folders) > 1:
        _check_additive(folders)
    before = {name: _bits(weight) for name, weight in backbone.flat.named_parameters()}
    hf = view(backbone.flat)
    try:
        grown = _grow(hf, folders)
        for folder in folders:
            _own_storage(hf, folder)
        peft = _loaded(hf, folders, backbone)
        _share_again(hf, backbone)
    finally:
        changed = [name for name, weight in backbone.flat.named_parameters() if _bits(weight) != before[name]]
        if changed:
            raise InputError(
                f"loading {folders[-1]} changed {changed[0]} of its base in place; load the base anew and do not "
                "use this adapter"
            )
    check_finite(dict(peft.named_parameters()), str(folders[-1]))
    own = Backbone.of(peft, str(folders[-1]))
    if not grown and (other := _names(own.plain) ^ _names(backbone)):
        raise _another_base(folders[-1], backbone, f"it rebuilds the network, first {min(other)}")
    check_live(own, str(folders[-1]))
    return own


def _loaded(hf: Any, folders: Sequence[Path], backbone: Backbone) -> Any:
    from peft import PeftModel

    names = ["default", *(f"default_{index}" for index in range(1, len(folders)))]
    peft: Any = None
    for adapter, folder in zip(names, folders, strict=True):
        try:
            if peft is None:
                peft = PeftModel.from_pretrained(hf, str(folder), adapter_name=adapter)
            else:
                peft.load_adapter(str(folder), adapter_name=adapter)
        except InputError:
            raise
        except Exception as error:  # whatever PEFT and what it calls may raise
            raise _another_base(folder, backbone, first_line(error)) from error
        _check_all_live(peft, adapter, folder, backbone)
    if len(names) > 1:
        peft.base_model.set_adapter(names)
    return peft


def _check_seal(folder: Path, backbone: Backbone) -> None:
    """An adapter that a lineage wrote says which weights it was trained on."""
    seal = read_json(folder / SEAL) if (folder / SEAL).is_file() else {}
    if seal.get("dtype") != str(backbone.hf.dtype).removeprefix("torch."):
        return
    known = (backbone.fingerprint, backbone.old_fingerprint)
    if backbone.peft is not None:
        flat = Backbone(backbone.flat)
        known += (flat.fingerprint, flat.old_fingerprint)
    if seal["base"] not in known:
        raise _another_base(folder, backbone, f"weights {seal['base']}, given {backbone.fingerprint}")


def _say_other_name(folder: Path, backbone: Backbone) -> None:
    """Warn where the adapter names a model of the hub as its base and another one is given."""
    named = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    given = str(backbone.hf.config._name_or_path)
    parts = {part.replace("models--", "").replace("--", "/") for part in Path(given).parts} | {given}
    owner, _, model = named.partition("/")
    is_hub_name = bool(owner and model) and "/" not in model and not named.startswith(".")
    if is_hub_name and given and not {named, model} & parts:
        log.warning(
            "%s names %s as its base and is put on %s, which must hold the same weights", folder, named, given
        )


def _check_additive(folders: Sequence[Path]) -> None:
    """Effects of LoRA factors add up; PEFT lets anything else of a later adapter replace that of an earlier one."""
    for folder in folders:
        whole = [name for name in _stored(folder) if ".lora_" not in name]
        if whole or read_json(folder / "adapter_config.json").get("peft_type") != "LORA":
            what = whole[0] if whole else read_json(folder / "adapter_config.json")["peft_type"]
            raise InputError(
                f"adapter {folder} brings {what}, which does not add up with another adapter; attach it alone, or "
                "merge it into the base first"
            )


def _stored(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in an adapter's file, by its name without PEFT's prefix."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        return {name.removeprefix(PREFIX): tuple(file.get_slice(name).get_shape()) for name in names}


def _grow(hf: Any, folders: Sequence[Path]) -> bool:
    """Widen the vocabulary to that of the adapter's embedding layers; says so."""
    rows, names = hf.get_input_embeddings().weight.shape[0], dict(hf.named_modules())
    ends = [name for name, module in names.items() if any(module is getattr(hf, end)() for end in EMBEDDINGS)]
    stored = {
        shape[0]: folder
        for folder in folders
        for name, shape in _stored(folder).items()
        if name.replace(".base_layer", "") in {f"{end}.weight" for end in ends}
    }
    wanted = max(stored, default=rows)
    if wanted <= rows:
        return False
    log.warning(
        "%s grew the vocabulary from %d to %d tokens, with the embeddings it brings",
        stored[wanted],
        rows,
        wanted,
    )
    hf.resize_token_embeddings(wanted, mean_resizing=False)
    return True


def _own_storage(hf: Any, folder: Path) -> None:
    """Storage of their own for the weights beneath the adapter that loading it would write into."""
    config = read_json(folder / "adapter_config.json")
    named = dict(hf.named_parameters(remove_duplicate=False))
    start = str(config.get("init_lora_weights", True)).lower()
    touched: set[str] = set(named)
    if config.get("peft_type") == "LORA" and start in PLAIN_STARTS:
        saved = tuple(config.get("modules_to_save") or ())
        found = {name.replace(".base_layer", "") for name in _stored(folder)} & named.keys()
        touched = {name for name in found if not name.rpartition(".")[0].endswith(saved)} if saved else found
    for weight in {id(named[name]): named[name] for name in touched}.values():
        weight.data = weight.data.clone()


def _share_again(hf: Any, backbone: Backbone) -> None:
    """Weights that kept their values go back to the base's storage; those that did not are said."""
    theirs = dict(backbone.flat.named_parameters(remove_duplicate=False))
    brought = []
    for name, weight in hf.named_parameters():
        other = theirs.get(name.replace(".base_layer", ""))
        if other is None or weight.shape != other.shape or weight.data_ptr() == other.data_ptr():
            continue
        if torch.equal(weight, other):
            weight.data = other.data
        else:
            brought.append(name.replace(".base_layer", ""))
    if brought:
        log.warning(
            "the adapter brings weights of its own beside its factors (%d, first %s), which are not the base's",
            len(brought),
            brought[0],
        )


def _check_all_live(peft: Any, adapter: str, folder: Path, backbone: Backbone) -> None:
    """Every tensor of the file must have found its place with its values: PEFT skips others without a word."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    stored = load_file(folder / "adapter_model.safetensors")
    check_finite(stored, str(folder))
    live = get_peft_model_state_dict(peft, adapter_name=adapter, save_embedding_layers=False)
    beneath = {name.replace(".base_layer", ""): weight for name, weight in peft.state_dict().items()}
    extra = {name: beneath.get(name.replace(".base_layer", "")) for name in stored.keys() - live.keys()}
    stray = [name for name, weight in extra.items() if weight is None] + [*(live.keys() - stored.keys())]
    if stray:
        raise _another_base(
            folder, backbone, f"{len(stray)} tensors without a counterpart, first {min(stray)}"
        )
    found: Mapping[str, Any] = {**live, **extra}
    lost = [name for name, tensor in stored.items() if not _holds(found[name], tensor)]
    if lost:
        raise _another_base(
            folder, backbone, f"{len(lost)} tensors that PEFT did not load, first {min(lost)}"
        )


def _holds(live: Tensor, stored: Tensor) -> bool:
    return live.shape == stored.shape and torch.equal(live.cpu(), stored.to(live.dtype))


def _names(backbone: Backbone) -> set[str]:
    return {*backbone.shapes, *backbone.ties}


def _another_base(folder: Path, backbone: Backbone, reason: str) -> InputError:
    kind = f"{backbone.config.model_type} with {backbone.config.num_hidden_layers} layers"
    return InputError(
        f"adapter {folder} was made for another base than this {kind} ({reason}); pass its own base"
    )


def _bits(weight: Tensor) -> tuple[int, int]:
    """Two sums over the bits of a tensor, which an edit in place changes."""
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[weight.element_size()]
    numbers = weight.detach().contiguous().view(whole)
    return int(numbers.sum(dtype=torch.int64)), int(numbers.flatten()[::7].sum(dtype=torch.int64))


@torch.no_grad()
def check_live(backbone: Backbone, name: str) -> None:
    """InputError unless a network with live adapters computes what its merged weights compute.

    max |Δ log p| in nats over two rows of fixed pseudo-random tokens; an adapter that acts at some tokens only, or
    through more than weights, is found out here.
    """
    if backbone.peft is None:
        return
    ids = probe_ids(backbone)
    both = (backbone.peft, backbone.flat)
    logps = [net(input_ids=ids, use_cache=False).logits.float().log_softmax(-1) for net in both]
    apart = float((logps[0] - logps[1]).abs().max())
    allowed = TOLERANCE.get(backbone.hf.dtype, HALF_TOLERANCE)
    if not apart <= allowed:
        raise InputError(
            f"{name} computes log-probabilities {apart:.1e} nats away from those of its merged weights, more than "
            f"{allowed:.0e}, so its effect is not one of weights; pass an adapter that PEFT's merge_and_unload takes"
        )


def probe_ids(backbone: Backbone) -> Tensor:
    """Two rows of fixed pseudo-random tokens that fit the model's context and vocabulary."""
    length = min(12, getattr(backbone.config, "max_position_embeddings", None) or 12)
    ids = torch.arange(2 * length, device=backbone.hf.device) * 7919 + 5
    return ids.reshape(2, length) % backbone.config.vocab_size
