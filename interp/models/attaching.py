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

from interp.core.errors import InputError
from interp.models.adapter_folders import PLAIN_STARTS, AdapterFolder
from interp.models.agreement import check_live
from interp.models.backbone import Backbone
from interp.models.gguf_files import origin_of
from interp.models.isolation import isolated
from interp.models.loading import first_line
from interp.models.peft_calls import without_its_warning
from interp.models.saved_types import is_narrowed, name_of
from interp.models.seam import check_finite
from interp.models.views import view

log = logging.getLogger(__name__)

EMBEDDINGS = ("get_input_embeddings", "get_output_embeddings")


@isolated()
def attach_adapters(backbone: Backbone, folders: Sequence[Path], *, state: str | None = None) -> Backbone:
    """The backbone with PEFT adapters live on it, their effects added up; the backbone itself is left alone.

    `state` is that of their files (see `stored_state`): what was measured of them is not repeated. Raises InputError
    for a folder without a whole adapter, for one made for another base, for one whose effect is not that of changed
    weights, and for several of which one brings weights of its own.
    """
    adapters = [AdapterFolder(folder) for folder in folders]
    beneath = backbone if backbone.peft is None else Backbone(backbone.flat)
    for adapter in adapters:
        adapter.check()
        _check_seal(adapter, backbone, beneath)
        _say_other_name(adapter, beneath)
        _say_other_revision(adapter, beneath)
    if len(adapters) > 1:
        _check_additive(adapters)
    before, hf = _bits(beneath), view(beneath.hf)
    try:
        grown = _grow(hf, adapters)
        for adapter in adapters:
            _own_storage(hf, adapter)
        peft = _loaded(hf, adapters, beneath)
        _share_again(hf, beneath)
    finally:
        if changed := [name for name, bits in _bits(beneath).items() if bits != before[name]]:
            raise InputError(
                f"loading {folders[-1]} changed {changed[0]} of its base in place; load the base anew and do not "
                "use this adapter"
            )
    theirs = {weight.data_ptr() for weight in beneath.hf.parameters()}  # checked when they came
    brought = {name: weight for name, weight in peft.named_parameters() if weight.data_ptr() not in theirs}
    check_finite(brought, str(folders[-1]))
    own = Backbone.around(peft, str(folders[-1]))
    if not grown and (other := _names(own.plain) ^ _names(beneath)):
        raise _another_base(adapters[-1], beneath, f"it rebuilds the network, first {min(other)}")
    if _at(own.plain) == _at(beneath):
        vars(own)["plain"] = beneath
    check_live(own, str(folders[-1]), state=state)
    return own


def _loaded(hf: Any, adapters: Sequence[AdapterFolder], beneath: Backbone) -> Any:
    from peft import PeftModel

    names = ["default", *(f"default_{index}" for index in range(1, len(adapters)))]
    peft: Any = None
    for name, adapter in zip(names, adapters, strict=True):
        try:
            with without_its_warning():
                if peft is None:
                    peft = PeftModel.from_pretrained(hf, str(adapter), adapter_name=name)
                else:
                    peft.load_adapter(str(adapter), adapter_name=name)
        except InputError:
            raise
        except Exception as error:  # whatever PEFT and what it calls may raise
            raise _another_base(adapter, beneath, first_line(error)) from error
        _check_all_live(peft, name, adapter, beneath)
    if len(names) > 1:
        peft.base_model.set_adapter(names)
    return peft


def _check_seal(adapter: AdapterFolder, backbone: Backbone, beneath: Backbone) -> None:
    """An adapter that a lineage wrote says which weights it was trained on."""
    seal = adapter.seal
    if seal.get("dtype") != str(backbone.hf.dtype).removeprefix("torch."):
        return
    known = {name for each in (backbone, beneath) for name in (each.fingerprint, each.old_fingerprint)}
    if seal["base"] not in known:
        raise _another_base(adapter, beneath, f"weights {seal['base']}, given {backbone.fingerprint}")


def _say_other_name(adapter: AdapterFolder, beneath: Backbone) -> None:
    """Warn where the adapter names a model of the hub as its base and another one, or a dequantised one, is given."""
    named = str(adapter.config.get("base_model_name_or_path") or "")
    given = str(beneath.hf.config._name_or_path)
    parts = {part.replace("models--", "").replace("--", "/") for part in Path(given).parts} | {given}
    owner, _, model = named.partition("/")
    is_hub_name = bool(owner and model) and "/" not in model and not named.startswith(".")
    coarse = Path(given).suffix == ".gguf" or origin_of(Path(given))
    if is_hub_name and given and (coarse or not {named, model} & parts):
        log.warning(
            "%s names %s as its base and is put on %s, which must hold the same weights",
            adapter,
            named,
            given,
        )


def _say_other_revision(adapter: AdapterFolder, beneath: Backbone) -> None:
    """Warn where the adapter names a revision of its base on the hub, and another snapshot of that is given."""
    from huggingface_hub import try_to_load_from_cache

    named, revision = str(adapter.config.get("base_model_name_or_path") or ""), adapter.config.get("revision")
    given = Path(str(beneath.hf.config._name_or_path))
    if (
        not revision
        or given.parent.name != "snapshots"
        or given.parts[-3] != f"models--{named.replace('/', '--')}"
    ):
        return
    config = try_to_load_from_cache(named, "config.json", cache_dir=given.parents[2], revision=str(revision))
    if not isinstance(config, str) or Path(config).parent != given:
        log.warning(
            "%s was made for %s at revision %r and is put on commit %s of it; pass revision=%r to load that base",
            adapter,
            named,
            revision,
            given.name,
            revision,
        )


def _check_additive(adapters: Sequence[AdapterFolder]) -> None:
    """Effects of LoRA factors add up; PEFT lets anything else of a later adapter replace that of an earlier one."""
    for adapter in adapters:
        whole = [name for name in adapter.shapes if ".lora_" not in name]
        if whole or adapter.config["peft_type"] != "LORA":
            what = whole[0] if whole else adapter.config["peft_type"]
            raise InputError(
                f"adapter {adapter} brings {what}, which does not add up with another adapter; attach it alone, or "
                "merge it into the base first"
            )


def _grow(hf: Any, adapters: Sequence[AdapterFolder]) -> bool:
    """Widen the vocabulary to that of the adapter's embedding layers; says so."""
    rows, names = hf.get_input_embeddings().weight.shape[0], dict(hf.named_modules())
    ends = [name for name, module in names.items() if any(module is getattr(hf, end)() for end in EMBEDDINGS)]
    stored = {
        shape[0]: adapter
        for adapter in adapters
        for name, shape in adapter.shapes.items()
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


def _own_storage(hf: Any, adapter: AdapterFolder) -> None:
    """Storage of their own for the weights beneath the adapter that loading it would write into."""
    config = adapter.config
    named = dict(hf.named_parameters(remove_duplicate=False))
    start = str(config.get("init_lora_weights", True)).lower()
    touched: set[str] = set(named)
    if config.get("peft_type") == "LORA" and start in PLAIN_STARTS:
        saved = tuple(config.get("modules_to_save") or ())
        found = {name.replace(".base_layer", "") for name in adapter.shapes} & named.keys()
        touched = {name for name in found if not name.rpartition(".")[0].endswith(saved)} if saved else found
    for weight in {id(named[name]): named[name] for name in touched}.values():
        weight.data = weight.data.clone()


def _share_again(hf: Any, beneath: Backbone) -> None:
    """Weights that kept their values go back to the base's storage; those that did not are said."""
    theirs = dict(beneath.hf.named_parameters(remove_duplicate=False))
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


def _check_all_live(peft: Any, name: str, adapter: AdapterFolder, beneath: Backbone) -> None:
    """Every tensor of the file must have found its place with its values: PEFT skips others without a word."""
    from peft import get_peft_model_state_dict

    stored = adapter.tensors
    check_finite(stored, str(adapter))
    live = get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False)
    whole = {key.replace(".base_layer", ""): weight for key, weight in peft.state_dict().items()}
    extra = {key: whole.get(key.replace(".base_layer", "")) for key in stored.keys() - live.keys()}
    stray = [key for key, weight in extra.items() if weight is None] + [*(live.keys() - stored.keys())]
    if stray:
        raise _another_base(
            adapter, beneath, f"{len(stray)} tensors without a counterpart, first {min(stray)}"
        )
    found: Mapping[str, Any] = {**live, **extra}
    lost = [key for key, tensor in stored.items() if not _holds(found[key], tensor)]
    if lost:
        raise _another_base(
            adapter, beneath, f"{len(lost)} tensors that PEFT did not load, first {min(lost)}"
        )
    _check_unrounded(found, adapter, beneath)


def _check_unrounded(live: Mapping[str, Tensor], adapter: AdapterFolder, beneath: Backbone) -> None:
    """InputError where the base's type rounds what the adapter brings, unless the base was rounded to it as well."""
    rounded = [
        key
        for key, tensor in adapter.tensors.items()
        if not torch.equal(live[key].cpu().to(tensor.dtype), tensor)
    ]
    narrow, source = beneath.hf.dtype, str(beneath.hf.config._name_or_path or "")
    if rounded and not is_narrowed(narrow, source):
        first = min(rounded)
        raise InputError(
            f"{adapter} holds {first} in {name_of(adapter.tensors[first].dtype)}, which its base's {name_of(narrow)} "
            "would round; load the base with dtype='float32'"
        )


def _holds(live: Tensor, stored: Tensor) -> bool:
    return live.shape == stored.shape and torch.equal(live.cpu(), stored.to(live.dtype))


def _at(backbone: Backbone) -> dict[str, tuple[int, torch.Size]]:
    return {name: (weight.data_ptr(), weight.shape) for name, weight in backbone.hf.named_parameters()}


def _names(backbone: Backbone) -> set[str]:
    return {*backbone.shapes, *backbone.ties}


def _another_base(adapter: AdapterFolder, beneath: Backbone, reason: str) -> InputError:
    kind = f"{beneath.config.model_type} with {beneath.config.num_hidden_layers} layers"
    return InputError(
        f"adapter {adapter} was made for another base than this {kind} ({reason}); pass its own base"
    )


def _bits(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Two sums over the bits of every weight, eight bytes at a time, which an edit in place changes."""
    found = {}
    for name, weight in backbone.weights().items():
        numbers = weight.contiguous().flatten().view(torch.uint8)
        whole = len(numbers) // 8 * 8
        words, rest = numbers[:whole].view(torch.int64), numbers[whole:]
        found[name] = int(words.sum()) + int(rest.sum()), int(words[::7].sum())
    return found
