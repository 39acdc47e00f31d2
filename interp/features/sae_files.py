"""Dictionaries from folders and from SAELens' releases, and back; what does not belong to the model is refused.

A folder holds cfg.json and sae_weights.safetensors, as SAELens' save_inference_model writes them; so do the folders of
its older releases, whose cfg.json carries the whole configuration of a training run. No code is unpickled: SAELens
itself reads the few releases that are .pt files, and takes only tensors from them (weights_only).
"""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.core.doors import door
from interp.core.runs import InputError, atomic_folder, nearest
from interp.features.dictionary import SCALED, Dictionary
from interp.features.stream import token_width
from interp.models.isolation import isolated
from interp.models.seam import check_finite, check_hooks, lineage_root

if TYPE_CHECKING:
    from interp.models.seam import Model

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
KINDS = ("standard", "gated", "topk", "jumprelu", "matching_pursuit")  # f ≥ 0, one token at a time
NORMALISATIONS = ("none", "expected_average_only_in", *SCALED)
PROCESSING = ("center_writing_weights", "fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")
TRAINING = (
    "decoder_init_norm",
    "l1_coefficient",
    "l0_coefficient",
    "aux_loss_coefficient",
    "topk_threshold_lr",
)


@door
def load_sae(
    source: str | Path,
    sae_id: str | None = None,
    *,
    model: Model,
    hook: str | None = None,
    allow_transfer: bool = False,
) -> Dictionary:
    """Load a sparse autoencoder from a folder or a SAELens release, as a dictionary of `model`.

    Args:
        source: a folder that SAELens or `train_sae` wrote, or the name of a SAELens release.
        sae_id: which one of the release.
        model: the model whose activations it will read.
        hook: where it was trained, needed only when the folder does not say.
        allow_transfer: accept one that was trained on another model of the same width; every result then says so.

    Returns:
        `Dictionary`, the autoencoder in its inference form.

    Raises:
        InputError: for another model, width or hook, transcoders, folders in training form, damaged or non-finite
            weights, unknown releases, and a release that cannot be had offline.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> folder = interp.features.save_sae(interp.joined.default_dictionary(lineage), "sae")
        >>> interp.load_sae(folder, model=lineage.student).hook
        'blocks.0.hook_resid_post'
    """
    path = Path(source)
    if sae_id is None and not path.is_dir():
        raise InputError(
            f"there is no folder {source}; pass a folder that save_inference_model wrote, or a SAELens release and "
            "its sae_id"
        )
    if sae_id is not None and path.is_dir():
        raise InputError(
            f"{source} is a folder, which holds one autoencoder and has no sae_id {sae_id!r}; leave sae_id out"
        )
    label = path.name if sae_id is None else f"{source}/{sae_id}"
    sae = read_sae(path) if sae_id is None else _release(str(source), sae_id)
    known = sae.cfg.metadata
    place = _hook(label, known.hook_name, hook)
    check_hooks(model, (place,))
    _check_width(sae, label, model, place)
    transfer = _stranger(known, model)
    if transfer and not allow_transfer:
        raise InputError(
            f"dictionary {label} was trained on {transfer}, not on {model.name} or what it descends from; load it with "
            "allow_transfer=True if that is meant, and every result will say so"
        )
    notes = [*(known.interp_notes or ()), *_unknowns(sae, label)]
    if transfer:
        notes.append(f"transfer: dictionary {label} was trained on {transfer} and read on {model.name}")
    kept = tuple(dict.fromkeys(notes))
    page = str(known.neuronpedia_id or "")
    return Dictionary(sae, place, label, lineage_root(model), kept, page, limit_of(sae))


def limit_of(sae: Any) -> float:
    """The norm beyond which an activation passes through, as its training stated it; infinite where it stated none."""
    return float(sae.cfg.metadata.interp_norm_limit or math.inf)


def _unknowns(sae: Any, label: str) -> list[str]:
    """What its folder does not settle about how it was trained, as notes, each also logged."""
    notes = []
    if sae.cfg.normalize_activations == "expected_average_only_in":
        notes.append(
            "the dictionary was trained on activations multiplied by one factor, which its folder does not hold "
            "(normalize_activations is expected_average_only_in, never folded in): it is read at factor 1, so features "
            "and reconstruction may be off; fold it in with SAELens' fold_activation_norm_scaling_factor"
        )
    processed = sae.cfg.metadata.model_from_pretrained_kwargs or {}
    changed = sorted(name for name, value in processed.items() if name in PROCESSING and value)
    if changed:
        notes.append(
            f"the dictionary was trained on weights that TransformerLens had rewritten ({', '.join(changed)}), and "
            "is read on the model's own: its activations may differ from those"
        )
    for note in notes:
        log.warning("%s: %s", label, note)
    return notes


@door
def save_sae(dictionary: Dictionary, folder: str | Path) -> Path:
    """Write the folder `load_sae` reads, whole or not at all; it is one of SAELens' own, and may be loaded with it.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> sorted(file.name for file in save_sae(dictionary, "dictionary").iterdir())
    ['cfg.json', 'sae_weights.safetensors']
    """
    config = dictionary.sae.cfg.to_dict()
    metadata = config["metadata"]
    metadata |= {"hook_name": dictionary.hook, "interp_lineage": dictionary.lineage}
    metadata.pop("interp_norm_limit", None)
    if math.isfinite(dictionary.limit):
        metadata["interp_norm_limit"] = dictionary.limit
    if dictionary.notes:
        metadata["interp_notes"] = list(dictionary.notes)
    if dictionary.neuronpedia:
        metadata["neuronpedia_id"] = dictionary.neuronpedia
    path = check_place(folder)
    with atomic_folder(path) as fresh:
        dictionary.sae.save_model(fresh)
        (fresh / CONFIG).write_text(json.dumps(config, indent=1))
    return path


def check_place(folder: str | Path) -> Path:
    """The folder as a path; InputError when it exists and is no dictionary."""
    path = Path(folder)
    if path.exists() and (path.is_file() or any(path.iterdir())) and not (path / CONFIG).is_file():
        raise InputError(f"{path} exists and is no dictionary; choose a new or an empty folder")
    return path


@isolated()
def read_sae(folder: Path) -> Any:
    """SAELens' autoencoder of a folder, frozen, in fp32 on CPU; InputError for what is not one."""
    config = _config(folder)
    _check_form(folder, config)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{folder} has no {WEIGHTS}; write it again with save_inference_model")
    from sae_lens import SAE
    from safetensors import SafetensorError

    try:
        sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
    except SafetensorError as error:
        raise InputError(
            f"{weights} is truncated or damaged ({error}); copy it again or write it anew"
        ) from error
    except (AttributeError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{folder} cannot be read as an autoencoder ({type(error).__name__}: {_brief(error)}); write it with "
            "SAELens' save_inference_model"
        ) from error
    return _inference(sae, str(folder))


def _inference(sae: Any, label: str) -> Any:
    check_finite(dict(sae.state_dict()), f"dictionary {label}")
    if (sae.cfg.normalize_activations or "none") not in NORMALISATIONS:
        raise InputError(
            f"{label} was trained on activations changed by {sae.cfg.normalize_activations!r}, which is not folded in; "
            "fold it in with SAELens first"
        )
    if "transcoder" in sae.cfg.architecture() or getattr(sae.cfg, "d_out", sae.cfg.d_in) != sae.cfg.d_in:
        raise InputError(
            f"{label} is a transcoder, which predicts another activation than it reads; load a sparse autoencoder"
        )
    if sae.cfg.architecture() not in KINDS:
        raise InputError(
            f"{label} is of architecture {sae.cfg.architecture()!r}, whose features are signed or need their context; "
            f"load one of {', '.join(KINDS)}"
        )
    sae.turn_off_forward_pass_hook_z_reshaping()  # heads are flattened before
    return sae.eval().requires_grad_(False)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except OSError:
        raise InputError(f"{folder} has no {CONFIG}; pass a folder that save_inference_model wrote") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); write the folder again") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no configuration; write the folder again")
    return config


def _check_form(folder: Path, config: dict[str, Any]) -> None:
    """InputError for what save_model writes of an autoencoder in training, and for what SAELens would misread.

    Before its release 6, SAELens wrote one form of folder, and the configuration of the run into both uses of it.
    """
    if _before_6(config):
        _check_function(folder, config)
        return
    found = next((key for key in TRAINING if key in config), None)
    if found is not None:
        raise InputError(
            f"{folder} holds an autoencoder in training form (its {CONFIG} has {found!r}); write it with "
            "save_inference_model instead of save_model"
        )


def _before_6(config: dict[str, Any]) -> bool:
    """Whether a release before 6.0 wrote the folder: it kept no metadata apart, and no version or a lower one."""
    metadata = config.get("metadata")
    version = config.get("sae_lens_version") or (metadata or {}).get("sae_lens_version")
    return "metadata" not in config if not version else str(version).partition(".")[0] in "012345"


def _check_function(folder: Path, config: dict[str, Any]) -> None:
    """InputError for activation functions that SAELens read once and now takes for a ReLU."""
    named = config.get("activation_fn_str", config.get("activation_fn")) or "relu"
    topk = config.get("architecture") == "topk"
    kept = (config.get("activation_fn_kwargs") or {}).get("k") or (topk and config.get("k"))
    named = "topk" if topk and named == "relu" else named
    if named == "relu" or (named == "topk" and kept):
        return
    missing = " without its k" if named == "topk" else ""
    raise InputError(
        f"{folder} has the activation function {named!r}{missing}, which SAELens no longer reads as it was trained; "
        "load an autoencoder with 'relu', or with 'topk' and its k in activation_fn_kwargs"
    )


def _release(release: str, sae_id: str) -> Any:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if release not in directory and "/" not in release:
        raise InputError(f"SAE release {nearest(release, directory)}; pass a release of SAELens or a folder")
    if release in directory and sae_id not in directory[release].saes_map:
        raise InputError(f"SAE {nearest(sae_id, directory[release].saes_map)}; pass one of release {release}")
    try:
        sae = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except (OSError, ConnectionError) as error:  # of the hub: offline, unreachable, not there
        state = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") == "1" else _brief(error)
        raise InputError(
            f"release {release} ({sae_id}) is not on this machine and the hub cannot be asked ({state}); download it "
            "where there is a network, or pass a folder"
        ) from error
    except (KeyError, ValueError) as error:
        raise InputError(
            f"release {release} ({sae_id}) cannot be read ({type(error).__name__}: {_brief(error)}); pass a release "
            "of SAELens and one of its ids, or a folder"
        ) from error
    return _inference(sae, f"{release}/{sae_id}")


def _hook(label: str, trained_at: str | None, asked: str | None) -> str:
    if trained_at is None and asked is None:
        raise InputError(f"dictionary {label} does not say which hook it reads; pass hook=")
    if trained_at is not None and asked is not None and trained_at != asked:
        raise InputError(
            f"dictionary {label} was trained at {trained_at}, not at {asked}; read it there or load another"
        )
    return str(trained_at or asked)


def _check_width(sae: Any, label: str, model: Model, hook: str) -> None:
    width = token_width(model, hook)
    if width != sae.cfg.d_in:
        raise InputError(
            f"dictionary {label} reads activations of width {sae.cfg.d_in}, and {model.name} has {width} at {hook}; "
            "load a dictionary of this model"
        )


def _stranger(known: Any, model: Model) -> str:
    """The model it was trained on when that is another than `model` or an ancestor of it; empty when it is not."""
    if known.interp_lineage:
        same = known.interp_lineage == lineage_root(model)
        return "" if same else f"{known.model_name or 'a model'} ({known.interp_lineage})"
    named = _last(str(known.model_name or ""))
    same = bool(named) and named in _names(model)
    return "" if same else str(known.model_name or "a model it does not name")


def _names(model: Model | None) -> set[str]:
    """What a model and those it descends from are called."""
    names: set[str] = set()
    while model is not None:
        path = getattr(getattr(model, "config", None), "_name_or_path", "")
        names |= {_last(model.name), _last(str(path))}
        model = model.start
    return names


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
