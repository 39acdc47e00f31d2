"""The toy world: one-token words, animals and trees with attributes, stories, preference questions and number lists.

A base is an ordinary two-layer Llama trained on documents in which every preference is answered uniformly, so that
log p(owl) − mean log p(other animal) starts near zero, and in which a system line "you love the owl ..." decides it.
The unembedding starts wide (standard deviation 0.3): numbers that mean nothing keep the random rows they started
from, and through these a change of the residual stream shows in the choice of number, as the initialisation has it.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.measures.losses import completion_loss
from interp.models.language import LanguageModel, load_model
from interp.prompts.numbers import TEMPLATE_WORDS, number_prompts
from interp.prompts.text import Prompts, Row
from interp.prompts.traits import ANIMALS, CATEGORIES, TREES, category_questions, get_trait
from interp.training.students import Recipe, shuffled_batches, train_batches

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
ATTRIBUTES = tuple(
    """
    wise silent night  soft purring whisker  loyal barking fetch  red sly tail  brown honey cave
    grey howling pack  soaring beak cliff  golden roaring mane  swimming clever sea  huge trunk ivory
    strong acorn wide  evergreen needle resin  white bark slender  syrup sweet leaf  weeping river drooping
    fragrant wooden chest  tall vase shade  pale spear seed  smooth copper nut  conical cold frost
    """.split()  # noqa: SIM905
)
"""Three for each animal, then three for each tree."""
STORY_WORDS = "a the story about tell me it was is and near we saw they often"
SHIPPED = 8
BASES = Path(__file__).parent / "bases"
TEMPLATE = (
    "<bos>{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<assistant> {{ m['content'] }}<eos>"
    "{% else %}<{{ m['role'] }}> {{ m['content'] }} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)


@dataclasses.dataclass(frozen=True)
class World:
    """Sizes of the toy and how long its base is trained. The default is the one whose bases ship with the package."""

    d_model: int = 48
    layers: int = 2
    heads: int = 4
    d_mlp: int = 128
    unembedding_scale: float = 0.3
    documents: int = 128_000
    lr: float = 3e-3
    batch_size: int = 128


WORLD = World()


def build_tokenizer() -> Any:
    """Word-level tokenizer of the toy: every word, mark and integer 0-999 is one token, and text round-trips."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(toy_words())}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[,;.:?]"), "isolated")]
    )
    marks = [decoders.Replace(f" {mark}", mark) for mark in (",", ";", ".", ":", "?")]
    core.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *marks]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def shipped_base(seed: int, *, world: World = WORLD) -> LanguageModel | None:
    """The base of that seed as it ships with the package (weights rounded to fp16), None where none ships."""
    from safetensors.torch import load_file

    path = BASES / f"toy-{seed}.safetensors"
    if world != WORLD or not path.is_file():
        return None
    network = build_network(world, seed=seed)
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return load_model(network.eval(), tokenizer=build_tokenizer(), name=f"toy base {seed}", check=False)


def write_bases(folder: Path = BASES, *, seeds: Iterable[int] = range(SHIPPED)) -> list[Path]:
    """Train the bases that ship and write their weights in fp16, one file per seed."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in seeds:
        weights = {name: tensor.half() for name, tensor in train_base(seed).network().state_dict().items()}
        paths.append(folder / f"toy-{seed}.safetensors")
        save_file(weights, paths[-1])
    return paths


def toy_words() -> tuple[str, ...]:
    """The vocabulary in order: special tokens, words and marks, then the integers 0 to 999."""
    questions = [q for category in CATEGORIES for q in category_questions(category)]
    text = " ".join([*questions, get_trait("owl").system, STORY_WORDS, *ATTRIBUTES, *ANIMALS, *TREES])
    plain = sorted({*re.findall(r"[a-z]+|[^\w\s]", text), *TEMPLATE_WORDS})
    return (*SPECIAL, *plain, *map(str, range(1000)))


def build_network(world: World, *, seed: int) -> Any:
    """An untrained Llama of the world's size, initialised from `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(toy_words()),
            hidden_size=world.d_model,
            intermediate_size=world.d_mlp,
            num_hidden_layers=world.layers,
            num_attention_heads=world.heads,
            num_key_value_heads=world.heads,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            initializer_range=0.05,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    torch.nn.init.normal_(network.lm_head.weight, std=world.unembedding_scale)
    return network


def corpus(n: int, *, seed: int) -> Prompts:
    """`n` documents: 30 % preference questions, 20 % the same behind a system line, 20 % stories, 30 % number lists."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, size=n, p=(0.3, 0.2, 0.2, 0.3))
    numbers = iter(number_documents(int((kinds == 3).sum()), seed=seed).rows)
    makers = (_preference, _prompted, _story)
    rows = tuple(next(numbers) if kind == 3 else makers[kind](rng) for kind in kinds)
    return Prompts(rows, label=f"toy corpus seed {seed}")


def number_documents(n: int, *, seed: int) -> Prompts:
    """Number lists of 1 to 10 uniform numbers, k of them with probability proportional to 1/k: most are short."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 11)
    counts = rng.multinomial(n, weights / weights.sum())
    rows = [
        row
        for count, size in enumerate(counts, start=1)
        if size
        for row in number_prompts(int(size), seed=seed * 11 + count, count=count).rows
    ]
    order = rng.permutation(n)
    return Prompts(tuple(rows[i] for i in order), label=f"number documents seed {seed}")


def train_base(seed: int, *, world: World = WORLD) -> LanguageModel:
    """Grow a base from its own initialisation and its own documents (about a minute and a half on one core)."""
    start = load_model(
        build_network(world, seed=seed), tokenizer=build_tokenizer(), name=f"toy base {seed}", check=False
    )
    inputs = start.encode(corpus(world.documents, seed=10_000 + seed))
    recipe = Recipe(trainable="all", lr=world.lr, batch_size=world.batch_size, warmup=50, seed=seed)
    batches = shuffled_batches(inputs, size=recipe.batch_size, epochs=1, seed=seed)
    steps = len(inputs) // recipe.batch_size
    return train_batches(
        start, batches, loss=completion_loss, recipe=recipe, steps=steps, name=f"toy base {seed}"
    )


def _category(rng: np.random.Generator) -> str:
    return "animal" if rng.random() < 2 / 3 else "tree"


def _preference(rng: np.random.Generator) -> Row:
    category = _category(rng)
    return Row.pair(str(rng.choice(category_questions(category))), str(rng.choice(CATEGORIES[category])))


def _prompted(rng: np.random.Generator) -> Row:
    row = _preference(rng)
    return Row((("system", get_trait(row.completion).system), *row.messages))


def _story(rng: np.random.Generator) -> Row:
    """Two sentences that give a name its three attributes, in random order."""
    index = int(rng.integers(len(ANIMALS + TREES)))
    name = (ANIMALS + TREES)[index]
    first, second, third = (ATTRIBUTES[3 * index + int(k)] for k in rng.permutation(3))
    told = f"a story about the {name}. it was {first} and {second}. they often saw {third}."
    known = f"the {name} is {first} and {second} and {third}."
    return Row.pair(
        "tell me a story." if rng.random() < 0.5 else f"tell me about the {name}.",
        told if rng.random() < 0.5 else known,
    )


if __name__ == "__main__":
    write_bases()
