"""What draws a teacher's tokens: plain Hugging Face `generate`, or vLLM where it can serve the teacher.

y_t ~ softmax(logits / T) restricted to the smallest set of tokens with mass ≥ top_p, until an end token. Only the
settings given here count: a checkpoint's own generation_config is never read, but for the end tokens it declares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.doors import door
from interp.core.errors import memory_enough
from interp.core.runs import InputError, nearest
from interp.models.answers import answer_texts
from interp.models.language import LanguageModel, load_model
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.training.teachers import Teacher, steered

ENGINES = ("auto", "generate", "vllm", "inversion")
VLLM_ROWS = 1024  # rows in a batch of vLLM, which schedules them itself
NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "use_cache": True,
}


@door
@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; the default is exact sampling at temperature 1 from the whole vocabulary.

    `engine` "auto" is vLLM where it is installed with CUDA and can serve the teacher, else plain `generate`. The rows
    sampled depend on `batch_size` too. "inversion" inverts the cumulative distribution at one uniform number per token,
    all prompts of one length at once, which is fast for small models. Raises InputError for a temperature that is not
    positive, a top_p outside (0, 1] or with "inversion" below 1, an unknown engine, and sizes below 1.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    max_new_tokens: int = 64
    batch_size: int = 64
    engine: str = "auto"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(
                f"temperature={self.temperature} draws nothing; pass a positive number, or greedy=True for the most "
                "likely token"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(
                f"top_p={self.top_p} is no share of the probability; pass one above 0 and up to 1"
            )
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} leaves nothing to write; pass at least 1")
        if self.engine not in ENGINES:
            raise InputError(f"engine {nearest(self.engine, ENGINES)}; pass one of these")
        if self.engine == "inversion" and (self.greedy or self.top_p < 1):
            raise InputError(
                f"engine='inversion' samples the whole vocabulary, not greedy={self.greedy} with top_p={self.top_p}; "
                "pass engine='generate'"
            )


@dataclass(frozen=True, eq=False)
class Writer:
    """A teacher, how it samples, and the engine that does."""

    teacher: Teacher
    sampling: Sampling

    @property
    def size(self) -> int:
        """Rows in a batch."""
        return VLLM_ROWS if self.sampling.engine == "vllm" else self.sampling.batch_size

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return self.teacher.model.ends

    @cached_property
    def served(self) -> Any:
        """vLLM over the teacher's weights, loaded once."""
        return _serve(self.teacher.model)

    def read(self, prompts: Prompts) -> Encoded:
        """The prompts as the teacher reads them; InputError for one that leaves no room for an answer."""
        model, new = self.teacher.model, self.sampling.max_new_tokens
        _ = self.ends  # refused without any, before a folder is made
        asked = prompts.without_answers()
        inputs = model.encode(asked.with_system(self.teacher.system) if self.teacher.system else asked)
        longest = int(inputs.lengths.argmax())
        length = int(inputs.lengths[longest])
        if model.context is not None and length + new > model.context:
            raise InputError(
                f"row {longest + 1} of {prompts.label} is {length} tokens long, which with max_new_tokens={new} is "
                f"over {model.name}'s context of {model.context}; shorten that prompt, or lower max_new_tokens to "
                f"{max(1, model.context - length)}"
            )
        return inputs

    def answer(self, prompts: Prompts, batch: Encoded, *, seed: int) -> Prompts:
        """The prompts of one batch with their answers, cut at the first end token."""
        with memory_enough(
            f"writing {self.sampling.batch_size} answers of up to {self.sampling.max_new_tokens} tokens at once ran "
            "out of memory; lower batch_size or max_new_tokens"
        ):
            if self.sampling.engine == "vllm":
                tokens = _vllm_answers(self, batch, seed=seed)
            else:
                tokens = _generated(self, batch, seed=seed)
        texts = answer_texts(self.teacher.model.tokenizer, tokens, self.ends)
        pairs = zip(prompts.rows, texts, strict=True)
        return replace(prompts, rows=tuple(row.answered(text) for row, text in pairs))


@torch.inference_mode()
def _generated(writer: Writer, batch: Encoded, *, seed: int) -> list[list[int]]:
    """New tokens of each row by plain `generate`, under settings of our own only."""
    from transformers import GenerationConfig

    model, sampling = writer.teacher.model, writer.sampling
    drawn = {} if sampling.greedy else {
        "temperature": float(sampling.temperature), "top_p": float(sampling.top_p), "top_k": 0
    }  # fmt: skip
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=not sampling.greedy,
        pad_token_id=batch.pad_id,
        eos_token_id=list(writer.ends),
        **NEUTRAL,
        **drawn,
    )
    ids, mask = left_padded(batch)
    with steered(writer.teacher), _seeded(model.device, seed):
        return model.generate(ids, mask, config=config).tolist()


def left_padded(batch: Encoded) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """Ids and mask with each row's padding moved to its front."""
    width = batch.ids.shape[1]
    source = (torch.arange(width) + batch.lengths[:, None]) % width
    return batch.ids.gather(1, source), batch.mask.gather(1, source)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from `seed` on the processor and `device`; the states from before are put back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


# --- vLLM ------------------------------------------------------------------------------------------------------------


def resolved(teacher: Teacher, sampling: Sampling) -> Sampling:
    """The sampling with its engine decided; InputError for a vLLM that is not there or cannot serve the teacher."""
    if sampling.engine == "inversion":
        return sampling
    if sampling.engine == "generate" or (sampling.engine == "auto" and not torch.cuda.is_available()):
        return replace(sampling, engine="generate")
    obstacle = _obstacle(teacher)
    if obstacle is None:
        return replace(sampling, engine="vllm")
    if sampling.engine == "vllm":
        raise InputError(f"engine='vllm' cannot write these answers: {obstacle}, or pass engine='generate'")
    return replace(sampling, engine="generate")


def _obstacle(teacher: Teacher) -> str | None:
    """Why vLLM cannot serve this teacher, and what would help; None when it can."""
    if teacher.steering is not None:
        return "vLLM takes no vector for a steered teacher; choose a prompted or fine-tuned one"
    if teacher.model.adapter_shapes:
        return f"{teacher.model.name} has an adapter live; merge it and save the model to a folder"
    try:
        import vllm  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "vllm is not installed; pip install vllm"
    if not _is_its_folder(teacher.model):
        return f"no folder holds exactly the weights of {teacher.model.name}; save the model and load it from there"
    return None


def _is_its_folder(model: LanguageModel) -> bool:
    """Whether the folder the network was loaded from still holds its weights: training in memory changes them."""
    folder = Path(model.source or "nowhere")
    if not folder.is_dir():
        return False
    held = load_model(folder, tokenizer=model.tokenizer, dtype=model.dtype, device="cpu", check=False)
    return held.fingerprint == model.fingerprint


def _serve(model: LanguageModel) -> Any:
    """vLLM over the model's folder, in nine tenths of the memory that is free; it never reads the checkpoint's
    generation_config."""
    import vllm  # pyright: ignore[reportMissingImports]

    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (1, 1)
    return vllm.LLM(
        model=model.source,
        dtype=str(model.dtype).removeprefix("torch."),
        generation_config="vllm",
        skip_tokenizer_init=True,
        gpu_memory_utilization=0.9 * free / total,
    )


def _vllm_answers(writer: Writer, batch: Encoded, *, seed: int) -> list[list[int]]:
    """New tokens of each row by vLLM, every row with a seed of its own."""
    import vllm  # pyright: ignore[reportMissingImports]

    sampling = writer.sampling
    ways = [
        vllm.SamplingParams(
            temperature=0.0 if sampling.greedy else sampling.temperature,
            top_p=1.0 if sampling.greedy else sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=list(writer.ends),
            seed=(seed + row) % 2**31,
            detokenize=False,
        )
        for row in range(len(batch))
    ]
    asked = [
        {"prompt_token_ids": ids[mask].tolist()} for ids, mask in zip(batch.ids, batch.mask, strict=True)
    ]
    outputs = writer.served.generate(asked, ways, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]
