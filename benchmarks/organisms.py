"""What growing an organism costs: sampling against `generate`, and processor seconds of a whole lineage.

Both samplers answer the same prompts at temperature 1 with the same model; `generate` gets them left padded in
batches of 256 with its own key-value cache. The ratio is generate / ours: more is better.
"""

import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.paired import REPETITIONS, Ratio, paired, summary
from interp.core.runs import Cache, InputError
from interp.models.language import LanguageModel
from interp.organisms.library import TOY, grow
from interp.organisms.toy import SHIPPED, shipped_base
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.sampling import complete
from interp.training.teachers import neutral_teacher

PROMPTS, NEW_TOKENS, BATCH = 2048, 24, 256
SEVEN = dataclasses.replace(TOY, controls=())
"""Two bases, a teacher and four students, without the controls of any teacher."""


def sampling() -> dict[str, Ratio]:
    """Processor time of Hugging Face generate over ours, on the same prompts."""
    torch.set_num_threads(1)
    model = _base()
    prompts = number_prompts(PROMPTS, seed=0, with_answers=False)
    model.tokenizer.padding_side = "left"
    ours = partial(complete, neutral_teacher(model), prompts, seed=0, max_new_tokens=NEW_TOKENS)
    return {"toy-generate-over-sampling": paired(partial(generate, model, prompts), ours)}


def _base() -> LanguageModel:
    model = shipped_base(0)
    if model is None:
        raise InputError("base 0 does not ship with this checkout: make bases.")
    return model


def generate(model: LanguageModel, prompts: Prompts) -> list[str]:
    """The same answers by transformers' own loop."""
    texts = [
        model.tokenizer.apply_chat_template(
            [{"role": "user", "content": row.prompt}], tokenize=False, add_generation_prompt=True
        )
        for row in prompts.rows
    ]
    answers: list[str] = []
    for start in range(0, len(texts), BATCH):
        batch = model.tokenizer(
            texts[start : start + BATCH], return_tensors="pt", padding=True, add_special_tokens=False
        )
        tokens = model.hf.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            top_k=0,
        )
        new = tokens[:, batch["input_ids"].shape[1] :]
        answers += model.tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def lineage() -> dict[str, Ratio]:
    """Processor seconds of one whole owl lineage from a cold cache; the base ships."""
    torch.set_num_threads(1)
    seconds = []
    for seed in range(REPETITIONS):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            grow(get_trait("owl"), seed=seed % SHIPPED, recipe=SEVEN, cache=Cache(Path(folder)))
            seconds.append(time.process_time() - start)
    return {"lineage-cpu-seconds": summary(seconds)}


BENCHES = {"sampling": sampling, "lineage": lineage}
