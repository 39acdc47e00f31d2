"""What reading costs: `record` against the plain forward, `shift` against one forward, and memory against rows.

The model is a random llama of four layers, 256 wide, with a vocabulary of 256, so that stopping before the
unembedding saves little. Memory is the growth of the peak resident set in a forked process, at 4 N rows over N.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.paired import REPETITIONS, Ratio, grown, interleaved, summary
from interp.activations.recording import moments, record
from interp.activations.shifts import residual_hooks, shift
from interp.models.language import load_model
from interp.models.lineage import open_lineage
from interp.models.seam import Model
from interp.prompts.text import Encoded, Prompts, Role

VOCABULARY = 256
SPECIAL = ("<pad>", "<eos>", "<unk>", ",", ";")
SIZES = {"8x64": (8, 64), "32x128": (32, 128)}
ROWS, LENGTH, BATCH = 64, 64, 16
PAIRS = 21


def capture() -> dict[str, Ratio]:
    """All resid_post at every position through `record`, and the bridge's whole cache, over the plain forward."""
    torch.set_num_threads(1)
    model, plain, bridge = load(0), hugging_face(0), bridged(0)
    results: dict[str, Ratio] = {}
    for size, (rows, length) in SIZES.items():
        inputs = random_rows(rows, length)
        read = partial(record, model, inputs, hooks=residual_hooks(model), positions="all", batch_size=rows)
        ways = {
            f"capture-record-{size}": read,
            f"capture-bridge-cache-{size}": partial(cache, bridge, inputs),
        }
        results |= beside(ways, partial(forward, plain, inputs), tokens=rows * length)
    return results


def pair() -> dict[str, Ratio]:
    """Base and teacher read and subtracted after every layer, at every position, over one plain forward.

    Both sides start from text.
    """
    torch.set_num_threads(1)
    shared = tokenizer()
    lineage = open_lineage(base=load(0, shared), teacher=load(1, shared))
    plain = hugging_face(0)
    results: dict[str, Ratio] = {}
    for size, (rows, length) in SIZES.items():
        prompts = sentences(rows, length)
        read = partial(shift, lineage.teacher, prompts, positions="all", batch_size=rows)
        reference = partial(forward_text, lineage.base, plain, prompts)
        results |= beside({f"shift-{size}": read}, reference, tokens=rows * length)
    return results


def memory() -> dict[str, Ratio]:
    """Peak memory at four times the rows: `record` spilling every position to disk, and `moments`."""
    torch.set_num_threads(1)
    model = load(0)
    verbs = {"memory-record-4N": record_to_disk, "memory-moments-4N": all_moments}
    return {name: summary([growth(verb, model) for _ in range(REPETITIONS)]) for name, verb in verbs.items()}


BENCHES: dict[str, Callable[[], dict[str, Ratio]]] = {"capture": capture, "shift": pair, "memory": memory}


def beside(
    ways: dict[str, Callable[[], object]], reference: Callable[[], object], *, tokens: int
) -> dict[str, Ratio]:
    """Interleaved pairs, small inputs repeated to a few tenths of a second."""
    return interleaved(ways, reference, repetitions=PAIRS, calls=max(1, 2048 // tokens))


def hugging_face(seed: int) -> Any:
    """The random model as transformers builds it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tokenizer() -> Any:
    """One token per number and separator."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(str(number) for number in range(VOCABULARY - len(SPECIAL)))]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def load(seed: int, shared: Any = None) -> Model:
    """The random model behind the seam, with a tokenizer of its own or a shared one."""
    return load_model(
        hugging_face(seed), tokenizer=shared or tokenizer(), name=f"random {seed}", device="cpu"
    )


def bridged(seed: int) -> Any:
    """The random model as a bridge and nothing else."""
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(
        "random", hf_model=hugging_face(seed), tokenizer=tokenizer(), device="cpu"
    )
    return model.eval()


def random_rows(rows: int, length: int) -> Encoded:
    """Number tokens without padding."""
    ids = torch.randint(len(SPECIAL), VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    return Encoded(ids, torch.ones_like(ids).bool(), torch.full_like(ids, int(Role.NUMBER)))


def sentences(rows: int, length: int) -> Prompts:
    """Rows of `length` tokens, the answer and its end among them."""
    numbers = random_rows(rows, length - 2).ids - len(SPECIAL)
    return Prompts.from_pairs([(" ".join(map(str, row)), "1") for row in numbers.tolist()])


def forward(model: Any, inputs: Encoded) -> None:
    """One pass to the logits, as a user of transformers writes it, without a cache of keys and values."""
    with torch.inference_mode():
        model(inputs.ids, attention_mask=inputs.mask.long(), use_cache=False)


def forward_text(reader: Model, model: Any, prompts: Prompts) -> None:
    """Tokens, then one pass to the logits."""
    forward(model, reader.encode(prompts))


def cache(model: Any, inputs: Encoded) -> None:
    """Everything TransformerLens keeps."""
    with torch.inference_mode():
        model.run_with_cache(inputs.ids)


def record_to_disk(model: Model, rows: int) -> None:
    """Every position after every layer, far above the budget that is given."""
    with tempfile.TemporaryDirectory() as folder:
        hooks, inputs = residual_hooks(model), random_rows(rows, LENGTH)
        record(model, inputs, hooks=hooks, positions="all", batch_size=BATCH, memory=2**20, folder=folder)


def all_moments(model: Model, rows: int) -> None:
    """Means and covariances over every position after every layer."""
    moments(model, random_rows(rows, LENGTH), hooks=residual_hooks(model), positions="all", batch_size=BATCH)


def growth(verb: Callable[[Model, int], None], model: Model) -> float:
    """Growth of the peak at 4 N rows over that at N, each in a process forked for it."""
    small, large = (grown(partial(verb, model, rows)) for rows in (ROWS, 4 * ROWS))
    return large / small
