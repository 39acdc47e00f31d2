"""From a name or folder to weights and a tokenizer, with a door at every place a checkpoint can be wrong.

Only safetensors are read and no code that comes with a checkpoint is run. A name is looked up in the local Hugging Face
cache first, so that a cached model needs no network and an absent one fails at once when there is none.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import torch

from interp.core.errors import InputError, nearest
from interp.core.progress import working
from interp.core.remembered import file_states, recall, remember
from interp.models.isolation import isolated
from interp.models.memory import check_memory
from interp.models.multimodal import is_multimodal, text_model, whole_class
from interp.models.quantised import check_config, check_stored
from interp.models.saved_types import loading_dtype
from interp.models.seam import PROBE
from interp.prompts.round_trips import entries_of

log = logging.getLogger(__name__)

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_SECONDS = 5.0
LOADING = (0.25 * 2**30, 1.1)
"""Bytes a load takes, and per byte of the weights in the type they get: measured at 134 million parameters."""


class Loading(TypedDict, total=False):
    """How weights are loaded: `dtype` (None keeps the checkpoint's own), `device` ("auto" takes a GPU where there is
    one), `revision`, a branch, tag or commit of a repository on the hub, and `allow_unknown`, which also reads rows of
    which more than a fifth of the tokens are unknown to the tokenizer.
    """

    dtype: torch.dtype | str | None
    device: str | torch.device
    revision: str | None
    allow_unknown: bool


DTYPES = ("float32", "bfloat16", "float16", "float64")


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of that name; None stays None (the checkpoint's own), and InputError for a name of none."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"dtype {nearest(str(dtype), DTYPES)}; leave it out to keep the checkpoint's own")
    return getattr(torch, dtype)


def as_device(device: str | torch.device) -> torch.device:
    """Find a device: "auto" is the GPU of this torchrun rank, else the processor; InputError for a missing one."""
    if device == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % count}" if count else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {str(device)!r} is not to be had here ({str(error).splitlines()[0]}); pass 'cpu', 'cuda' or "
            "'cuda:0' where there is one, or leave it out"
        ) from error
    return torch.device(device)


def find_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of a checkpoint or adapter, given its path or its name on the Hugging Face hub.

    Of a GGUF file, or a folder that holds one and nothing else, it is the folder in the cache that the file was
    converted to. `revision` is a branch, tag or commit of the hub's repository. Raises InputError for another file, for
    what is neither a folder nor such a name, and for a revision of a local folder.
    """
    from interp.models.gguf_files import converted_folder, gguf_in

    path = Path(source).expanduser()
    if path.exists() and revision is not None:
        raise InputError(
            f"{path} is a {'folder' if path.is_dir() else 'file'}, which has no revision {revision!r}; leave the "
            "revision out, or pass a hub name"
        )
    if path.exists() and (file := gguf_in(path)) is not None:
        return converted_folder(file)
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(
            f"{path} is a file; pass the folder that holds config.json and model.safetensors, or a GGUF file"
        )
    if isinstance(source, Path) or not HUB_NAME.fullmatch(source) or source.startswith("."):
        raise InputError(
            f"there is no folder {path}; pass a model folder, or a name like 'gpt2' or 'owner/model'"
        )
    return _from_hub(source, revision)


def _from_hub(name: str, revision: str | None) -> Path:
    """The cached snapshot of a hub repository, downloaded when absent and the hub answers within seconds."""
    from huggingface_hub import HfApi, constants, snapshot_download

    wanted = repr(name) if revision is None else f"{name!r} at revision {revision!r}"
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if any(folder.glob("*config.json")):
            return folder
    except (OSError, ValueError):
        log.debug("%s is not cached", name)
    if constants.is_offline_mode():
        raise InputError(
            f"{wanted} is neither a folder nor in the Hugging Face cache, and HF_HUB_OFFLINE is set; "
            "pass a folder, or fetch it once where there is a network"
        )
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha
        return Path(snapshot_download(name, revision=commit, allow_patterns=WANTED))
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"{wanted} is neither a folder nor in the Hugging Face cache, and the hub did not give it ({reason}); "
            "check the name and the network, or pass a folder"
        ) from error


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter rather than a model.

    A config.json beside an adapter makes no model of it. Raises InputError for a folder that holds both, and for one
    that holds neither but has such folders inside, as trainers leave them.
    """
    adapter, whole = (folder / "adapter_config.json").is_file(), (folder / "config.json").is_file()
    weights = [path.name for path in sorted(folder.iterdir()) if _is_whole_model(path)]
    if adapter and weights:
        raise InputError(
            f"{folder} holds a whole model ({weights[0]}) and an adapter beside it, so it is unclear whether the "
            "adapter is merged already; move adapter_config.json and adapter_model.safetensors into a folder of their "
            "own and pass the one you mean"
        )
    if not adapter and not whole and (inside := _members_inside(folder)):
        raise InputError(
            f"{folder} holds neither a model nor an adapter itself, but {len(inside)} inside; pass one of them, such "
            f"as {inside[-1]}"
        )
    return adapter


def _is_whole_model(path: Path) -> bool:
    """Whether a file holds a model's weights, in one piece or in several."""
    weights = path.suffix in (".safetensors", *PICKLES)
    return weights and path.stem.startswith(("model", "pytorch_model", "consolidated"))


def _members_inside(folder: Path) -> list[Path]:
    """Folders inside that hold a model or an adapter, checkpoints in the order of their steps."""
    found = {
        config.parent
        for name in ("adapter_config.json", "config.json")
        for config in folder.glob(f"*/{name}")
    }
    return sorted(found, key=lambda path: (_step(path), path.name))


def _step(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


@isolated()
def load_weights(folder: Path, *, dtype: Any = None, device: str | torch.device = "cpu") -> Any:
    """The causal language model in a folder, complete and as it was saved; `dtype` None keeps the checkpoint's own.

    Raises InputError for missing or misshapen weights, and for no causal language model.
    """
    is_adapter(folder)  # transformers would put an adapter it finds beside the weights on top of them
    check_model_folder(folder)
    dtype = dtype or loading_dtype(folder)
    check_memory(LOADING[0] + LOADING[1] * _weight_bytes(folder, dtype), f"loading {folder}")
    try:
        kind, whole = _class_of(folder)
        with no_bars(), working(f"loading {folder}"):
            loaded: Any = kind.from_pretrained(
                folder,
                dtype=dtype or "auto",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise InputError(
            f"{folder} cannot be loaded as a causal language model: {first_line(error)}"
        ) from error
    hf, report = loaded
    absent = sorted(map(str, report["missing_keys"])) + sorted(map(str, report.get("mismatched_keys", ())))
    if absent:
        raise InputError(
            f"{folder} lacks or misshapes {len(absent)} weights its config.json asks for, first {absent[0]}; "
            "use the folder save_pretrained wrote"
        )
    if unused := sorted(report["unexpected_keys"]):
        log.warning("%s: %d weights of the file are not used, first %s", folder, len(unused), unused[0])
    hf = hf.to(device).eval()
    return text_model(hf, str(folder)) if whole else hf


def _weight_bytes(folder: Path, dtype: torch.dtype | None) -> int:
    """Bytes of the weights in a folder's safetensors, in `dtype` or as they are stored."""
    from safetensors import safe_open

    total = 0
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
            total += sum(math.prod(each.get_shape()) * _width(each.get_dtype(), dtype) for each in slices)
    return total


def _width(stored: str, dtype: torch.dtype | None) -> int:
    """Bytes of a number that is stored as "F32" and the like."""
    return dtype.itemsize if dtype is not None else int(re.sub(r"\D", "", stored) or 8) // 8


def _class_of(folder: Path) -> tuple[Any, bool]:
    """What transformers loads a folder as, and whether that is a multimodal whole around the text model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    whole = is_multimodal(config)
    return (whole_class(config, str(folder)) if whole else AutoModelForCausalLM), whole


def check_model_folder(folder: Path) -> None:
    """InputError unless the folder holds a known architecture and whole safetensors files."""
    if not (folder / "config.json").is_file():
        hint = (
            "it holds a PEFT adapter, pass it as adapter= beside its base"
            if is_adapter(folder)
            else "no config.json"
        )
        raise InputError(f"{folder} is no model folder ({hint}); pass one that save_pretrained wrote")
    config = read_json(folder / "config.json")
    _check_architecture(folder, config)
    check_config(config, str(folder))
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise InputError(no_weights(folder))
    index = folder / "model.safetensors.index.json"
    named = set(read_json(index).get("weight_map", {}).values()) if index.is_file() else set()
    if missing := sorted(named - {shard.name for shard in shards}):
        raise InputError(f"{folder} lacks {missing[0]}, which {index.name} lists; copy the folder again")
    for shard in shards:
        check_safetensors(shard)


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = (
            "needs code of its own, which is never run"
            if "auto_map" in config
            else "is unknown to transformers"
        )
        raise InputError(
            f"{folder} has model_type {kind!r}, which {own}; use a checkpoint of a built-in architecture"
        )


def no_weights(folder: Path) -> str:
    """Why a folder gives no weights, and what to do: they are a pickle, or there are none."""
    pickles = sorted(
        path.name for path in folder.iterdir() if path.suffix in PICKLES and path.name != "training_args.bin"
    )
    if pickles:
        return (
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when opened; "
            "convert it with save_pretrained to model.safetensors"
        )
    return f"{folder} has a config.json and no *.safetensors; copy the weights beside it"


def check_safetensors(path: Path) -> None:
    """InputError when the file is truncated, no safetensors file at all, or holds quantised weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is truncated or not safetensors ({first_line(error)}); copy it again"
        ) from error
    check_stored(dtypes, str(path))


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer of its own."""
    return any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")
    )


@isolated()
def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, None when there is none.

    A tokenizer class chosen from config.json's model_type can silently split numbers differently from the saved
    tokenizer.json; then the saved one is used. Once found to agree, it is not compared again while the files stay as
    they are. Raises InputError for one that cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not has_tokenizer(folder):
        return None
    saved, path = (folder / "tokenizer.json").is_file(), folder / "tokenizer_config.json"
    if saved and path.is_file() and "auto_map" in read_json(path):
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    try:
        chosen = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not saved:
            raise InputError(f"the tokenizer in {folder} cannot be loaded: {first_line(error)}") from error
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if not saved or type(chosen) is PreTrainedTokenizerFast:
        return chosen
    key = (file_states(folder.glob("*.json")), PROBE, version("transformers"), version("tokenizers"))
    if recall("tokenizer", *key):
        return chosen
    plain = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if _pieces(chosen) != _pieces(plain):
        log.warning(
            "%s: %s would split text differently, using tokenizer.json as saved",
            folder,
            type(chosen).__name__,
        )
        return plain
    remember("tokenizer", *key, value=True)
    return chosen


def _pieces(tokenizer: Any) -> list[int]:
    return tokenizer(PROBE, add_special_tokens=False)["input_ids"]


def check_vocabulary(tokenizer: Any, hf: Any, name: str) -> None:
    """InputError when the tokenizer has ids the model has no embedding for."""
    rows = hf.get_input_embeddings().weight.shape[0]
    highest = max(entries_of(tokenizer).values(), default=-1)
    if highest >= rows:
        raise InputError(
            f"the tokenizer of {name} has ids up to {highest} and the model {rows} embeddings; pass the tokenizer it "
            "was trained with"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds; InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON ({first_line(error)}); copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; copy it again")
    return content


def first_line(error: BaseException) -> str:
    """The first line of a message, with transformers' and torch's long tails cut off."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:")


@contextmanager
def no_bars() -> Iterator[None]:
    """transformers draws a bar per checkpoint, however small."""
    from transformers.utils import logging as messages

    shown = messages.is_progress_bar_enabled()
    messages.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            messages.enable_progress_bar()
