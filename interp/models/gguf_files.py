"""GGUF files as model folders: dequantised once by transformers, and written to the cache as plain fp32.

In a GGUF file blocks of numbers share a scale, w = d q (+ m) with q of a few bits, so the weights lie on a coarse grid
in whatever type they are stored later. The folder says so in `gguf.json`, and every result of the model in its notes.
Whatever transformers would leave out without a word is refused: weights, rotary scaling, the rule that splits text.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from interp.core.content import digest, json_text
from interp.core.errors import InputError
from interp.core.progress import announce
from interp.core.remembered import file_states, recall, remember
from interp.core.runs import Cache, atomic_folder
from interp.models.isolation import isolated
from interp.models.loading import first_line, no_bars, read_json
from interp.models.memory import check_memory

log = logging.getLogger(__name__)

MAGIC = b"GGUF"
RECORD = "gguf.json"
CONVERSION = 1  # raised when the same file gives another folder
MEMORY = (
    2.0  # most of the process over the fp32 weights, while they are converted: 1.8 at 134 million parameters
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
BY_DIGIT = ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b")
"""Rules of splitting (`tokenizer.ggml.pre`) that put every digit apart before GPT-2's, by llama.cpp's vocabulary."""
AS_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling")
"""Rules that are GPT-2's own, which transformers takes for every name that it does not know."""


def gguf_in(path: Path) -> Path | None:
    """The GGUF file a path means: itself, or the one in a folder that holds no other model; None when there is none.

    Raises InputError for a folder with several.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" else None
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise InputError(f"{path} holds {len(found)} GGUF files; pass the one you mean, such as {found[0]}")
    return found[0] if found else None


def converted_folder(path: Path) -> Path:
    """The cached model folder of a GGUF file, made when it is not there yet: plain fp32, its tokenizer, its record.

    The key is the file's SHA-256, the files of a tokenizer beside it, which is the one used, and all versions.
    """
    beside = {name: path.with_name(name) for name in TOKENIZER_FILES if path.with_name(name).is_file()}
    own = {name: file.read_bytes() for name, file in beside.items()}
    key = digest("gguf", CONVERSION, _sha256(path), own, _versions(path))
    cache = Cache.default()
    if not cache.has("gguf", key):
        cache.get("gguf", key, lambda folder: write_converted(path, folder))
    return cache.folder("gguf", key)


@isolated()
def write_converted(path: Path, folder: Path) -> None:
    """Write what a GGUF file holds as transformers would save it, with a `gguf.json` that says what it was.

    Raises InputError for a file that is none or cut off, an architecture or a rule of splitting that transformers
    cannot read from it, and too little memory.
    """
    reader = _read(path)
    size = 4 * sum(int(tensor.n_elements) for tensor in reader.tensors)
    check_memory(size * MEMORY, f"dequantising {path}")
    announce(log, "%s: dequantising it once, which takes a while", path)
    with _alone(path) as (source, name), no_bars(), _quiet():
        _network(source, name, path, reader).save_pretrained(folder)
        beside = [path.with_name(each) for each in TOKENIZER_FILES if path.with_name(each).is_file()]
        for file in beside:
            shutil.copyfile(file, folder / file.name)
        if not beside and _field(reader, "tokenizer.ggml.model") is not None:
            _tokenizer(source, name, path, reader).save_pretrained(folder)
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    (folder / RECORD).write_text(
        json_text({"file": path.name, "sha256": _sha256(path), "tensors": dict(kinds.most_common())})
    )


def origin_of(folder: Path) -> str:
    """What the weights of a folder were before, when they come from a GGUF file; empty for any other folder."""
    if not (folder / RECORD).is_file():
        return ""
    record = read_json(folder / RECORD)
    kinds = ", ".join(f"{count} {kind}" for kind, count in record["tensors"].items())
    bits = next((match[1] for kind in record["tensors"] if (match := re.search(r"Q(\d)", kind))), None)
    grid = f", so they lie on a {bits}-bit grid and say nothing about the original's" if bits else ""
    return (
        f"weights dequantised from {record['file']} (sha256 {record['sha256'][:12]}; tensors: {kinds}){grid}"
    )


def check_has_tokenizer(folder: Path, owner: str) -> None:
    """InputError for a folder that was made of a GGUF file without a tokenizer."""
    if (folder / RECORD).is_file():
        raise InputError(
            f"{owner} holds no tokenizer and none lies beside it; put the original's tokenizer.json beside it, or pass "
            "tokenizer="
        )


def _versions(path: Path) -> dict[str, str]:
    names = ("gguf", "transformers", "tokenizers")
    try:
        return {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"{path} is a GGUF file, which is read by the package gguf, and that is not installed; "
            "pip install -e '.[gguf]' in the clone"
        ) from error


def _sha256(path: Path) -> str:
    """SHA-256 of a file, remembered as long as the file is unchanged."""
    states = file_states([path])
    known = recall("sha256", states)
    if known is None:
        with path.open("rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
        remember("sha256", states, value=known)
    return known


def _read(path: Path) -> Any:
    """The header of the file and views of its tensors; InputError when it is no GGUF file or not whole."""
    from gguf import GGUFReader

    with path.open("rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:
        raise InputError(
            f"{path} is no GGUF file, whatever its name (it begins with {begins!r}); "
            "pass a GGUF file, or a folder with config.json and model.safetensors"
        )
    try:
        return GGUFReader(path)
    except Exception as error:  # whatever numpy says of bytes that are not there
        raise InputError(
            f"{path} is a truncated GGUF file, of {path.stat().st_size:,} bytes ({first_line(error)}); copy it again"
        ) from error


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


@contextmanager
def _alone(path: Path) -> Iterator[tuple[Path, str]]:
    """The file in a folder by itself: transformers would read an adapter or a configuration that lies beside it."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "weights.gguf")
        link.symlink_to(path.resolve())
        yield link.parent, link.name


def _quiet() -> Any:
    """Keeps transformers' bar, which knows no terminal from a file, out of files."""
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO())


def _network(source: Path, name: str, path: Path, reader: Any) -> Any:
    """The causal language model in fp32, without the mark of a quantised one, over the tensors transformers made."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given: dict[str, Any] = {"gguf_file": name, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(source, **given)
    except Exception as error:
        kind = _field(reader, "general.architecture")
        raise InputError(
            f"{path} is of the architecture {kind!r}, which transformers cannot read from a GGUF file "
            f"({first_line(error)}); use the checkpoint in safetensors"
        ) from error
    _check_rotary(config, path, reader)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **given
        )
    except Exception as error:
        raise InputError(
            f"{path} cannot be loaded as a causal language model ({first_line(error)}); use the checkpoint in "
            "safetensors"
        ) from error
    hf, report = loaded
    _check_complete(hf, report, path, reader)
    plain = hf.config
    vars(plain).pop("quantization_config", None)
    with torch.device("meta"):
        own = type(hf)(plain)
    own.load_state_dict(hf.state_dict(), assign=True)
    own.tie_weights()
    return own


def _check_rotary(config: Any, path: Path, reader: Any) -> None:
    """InputError where the file scales its rotary positions and transformers' configuration does not."""
    names = [name for name in reader.fields if name.endswith("rope.scaling.type")]
    stated = next((_field(reader, name) for name in names), "none")
    read = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if stated != "none" and read == "default":
        raise InputError(
            f"{path} scales its rotary positions ({names[0]} {stated!r}), which transformers does not read from a GGUF "
            "file; use the checkpoint in safetensors"
        )


def _check_complete(hf: Any, report: Any, path: Path, reader: Any) -> None:
    """InputError unless the network is made of the numbers of the file, all of them and no others."""
    tied = {"output.weight"} if hf.config.tie_word_embeddings else set()
    held = sum(int(tensor.n_elements) for tensor in reader.tensors if tensor.name not in tied)
    made = sum(weight.numel() for weight in hf.parameters())
    missing = sorted(map(str, report["missing_keys"]))
    if held != made or missing:
        more = f", without {missing[0]}" if missing else ""
        raise InputError(
            f"{path} holds {held:,} weights and transformers makes a {type(hf).__name__} of {made:,} of it{more}, so "
            "it would be another model; use the checkpoint in safetensors"
        )


def _tokenizer(source: Path, name: str, path: Path, reader: Any) -> Any:
    """The tokenizer of the file, which splits text by the rule that the file names."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=name, local_files_only=True)
    except Exception as error:
        raise InputError(
            f"the tokenizer in {path} cannot be read ({first_line(error)}); put the original's tokenizer.json beside "
            "it"
        ) from error
    rule, backend = _field(reader, "tokenizer.ggml.pre"), tokenizer.backend_tokenizer
    if rule in BY_DIGIT:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif type(backend.pre_tokenizer).__name__ == "ByteLevel" and rule not in AS_GPT2:
        raise InputError(
            f"{path} splits text by the rule {rule!r}, which transformers does not know and would take for GPT-2's; "
            "put the original's tokenizer.json beside it"
        )
    return tokenizer


def write_checked(file: str, folder: str, sha256: str) -> None:
    """`python -m interp.models.gguf_files FILE FOLDER SHA256`: the folder of a file of that digest, or nothing.

    Raises InputError for a file of another digest, and as `write_converted` does.
    """
    found = _sha256(Path(file))
    if found != sha256:
        raise InputError(f"{file} has the SHA-256 {found}, not {sha256}; fetch it again")
    with atomic_folder(folder) as fresh:
        write_converted(Path(file), fresh)


if __name__ == "__main__":
    try:
        write_checked(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
