"""What nulls are made of: base samples, shuffled numbers, transplanted directions, random token pairs and networks.

Each keeps everything of the original except what the null breaks. For base samples y ~ p(y|x) the mean score is exactly
zero: E <grad log p(y|x), v> = <grad sum_y p(y|x), v> = 0, with truncated answers read up to where they stop.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.arrays import lineage_root
from interp.core.doors import door
from interp.core.runs import InputError
from interp.gradients.directions import trait_gradient
from interp.models.language import LanguageModel
from interp.models.parameters import ParameterDirection
from interp.models.seam import Model
from interp.prompts.numbers import DIGITS
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Encoded, Role
from interp.prompts.traits import Trait, make_trait
from interp.training.sampling import equal_lengths, sample_tokens

Shuffle = Literal["within", "across"]


def base_samples(model: LanguageModel, prompts: Prompts, *, seed: int, max_new_tokens: int = 24) -> Encoded:
    """One answer per prompt sampled from `model` at temperature 1, as the tokens drawn: no filter, no second reading.

    An answer cut off at `max_new_tokens` has no end token, which keeps the mean score of these rows exactly zero.
    """
    asked = model.encode(prompts.without_answers())
    generator = torch.Generator().manual_seed(seed)
    ends = torch.tensor(model.ends)
    rows: dict[int, tuple[Tensor, Tensor]] = {}
    for group in equal_lengths(asked):
        ids = asked.ids[group][:, : int(asked.lengths[group[0]])]
        uniforms = torch.rand(max_new_tokens, len(group), generator=generator)
        drawn = sample_tokens(model, ids, uniforms=uniforms)
        for row, prompt, answer in zip(group.tolist(), ids, drawn, strict=True):
            rows[row] = _join(prompt, answer, ends=ends)
    return _stacked([rows[row] for row in range(len(prompts))], like=asked, label=f"samples of {model.name}")


def shuffle_numbers(rows: Prompts, *, how: Shuffle, seed: int) -> Prompts:
    """The rows with their answers' numbers moved; counts, separators, brackets and prompts stay.

    "within" permutes the numbers of each answer. "across" exchanges the j-th numbers of all answers that have one, so
    that every position keeps the numbers it had.
    """
    rng = np.random.default_rng(seed)
    found = [re.findall(DIGITS, row.completion) for row in rows.rows]
    if how == "within":
        moved = [[numbers[i] for i in rng.permutation(len(numbers))] for numbers in found]
    else:
        moved = _exchanged(found, rng)
    changed = tuple(_renumbered(row, numbers) for row, numbers in zip(rows.rows, moved, strict=True))
    return replace(rows, rows=changed, label=f"{rows.label}, numbers shuffled {how} answers")


@door
def transplant(direction: ParameterDirection, model: Model) -> ParameterDirection:
    """Move a direction's tensors to the weights of `model`, where they mean nothing: a control, never a claim.

    Its label gains the lineage it comes from. Raises InputError unless every tensor has a counterpart of equal shape.

    >>> import interp
    >>> one = interp.load_lineage("toy/owl")
    >>> control = transplant(one.update("teacher"), one["cross_base"])
    >>> control.tensors.keys() == one.update("teacher").tensors.keys()
    True
    """
    shapes = {name: tuple(weight.shape) for name, weight in model.parameters().items()}
    for name, tensor in direction.tensors.items():
        if shapes.get(name) != tuple(tensor.shape):
            raise InputError(
                f"{direction.label} has {name} of shape {list(tensor.shape)} where {model.name} has "
                f"{list(shapes.get(name, ()))}; take the direction from a lineage of the same architecture"
            )
    label = f"{direction.label} of {direction.lineage[:8]}"
    return replace(direction, label=label, fingerprint=model.fingerprint, lineage=lineage_root(model))


def token_pairs(model: Model, trait: Trait, *, pairs: int, seed: int, pool: int = 400) -> list[Trait]:
    """Random pairs of whole words, each with the word nearest in probability at the trait's questions.

    Words are drawn among the `pool` likeliest single tokens of letters that are no answer of the trait. The pairs come
    as traits of one foil with the questions of `trait`. Raises InputError when there are too few words.
    """
    words = _words(model, trait, pool=pool)
    if len(words) < 2 * pairs:
        raise InputError(
            f"{pairs} token pairs need {2 * pairs} words and {model.name} offers {len(words)}; ask for at most "
            f"{len(words) // 2}"
        )
    rng = np.random.default_rng(seed)
    starts = rng.permutation(len(words) // 2)[:pairs]
    chosen = [rng.permutation([words[2 * start], words[2 * start + 1]]).tolist() for start in starts]
    return [
        make_trait(
            a,
            [b],
            category=trait.category,
            questions=trait.questions,
            name=f"{a} over {b}",
            forms=trait.forms,
        )
        for a, b in chosen
    ]


def random_pair_directions(
    model: LanguageModel, trait: Trait, *, pairs: int, seed: int
) -> list[ParameterDirection]:
    """Gradients of log p(a) - log p(b) after the trait's questions for random matched words, in the trait's forms."""
    return [trait_gradient(model, pair) for pair in token_pairs(model, trait, pairs=pairs, seed=seed)]


def random_network(model: LanguageModel, *, seed: int) -> LanguageModel:
    """A network of the same configuration with fresh weights from the architecture's own initialisation."""
    return model.redrawn(seed=seed, name=f"{model.name}, random weights {seed}", dtype=torch.float32)


def _join(
    prompt: Int[Tensor, "pos"], answer: Int[Tensor, "new"], *, ends: Int[Tensor, "end"]
) -> tuple[Tensor, Tensor]:
    """Ids and roles of a prompt and its answer up to and including the first end token, where there is one."""
    found = torch.isin(answer, ends).nonzero()
    length = int(found[0]) + 1 if len(found) else len(answer)
    roles = torch.full((len(prompt) + length,), int(Role.OTHER))
    roles[: len(prompt)] = int(Role.PROMPT)
    if len(found):
        roles[-1] = int(Role.END)
    return torch.cat([prompt, answer[:length]]), roles


def _stacked(rows: Sequence[tuple[Tensor, Tensor]], *, like: Encoded, label: str) -> Encoded:
    ids, roles = (
        torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True, padding_value=fill)
        for part, fill in zip(zip(*rows, strict=True), (like.pad_id, int(Role.PAD)), strict=True)
    )
    return Encoded(ids, roles != int(Role.PAD), roles, label=label, pad_id=like.pad_id)


def _exchanged(found: list[list[str]], rng: np.random.Generator) -> list[list[str]]:
    """The numbers of all answers with every position permuted over the answers that reach it."""
    moved = [list(numbers) for numbers in found]
    for position in range(max(map(len, found), default=0)):
        holders = [row for row, numbers in enumerate(found) if len(numbers) > position]
        for row, source in zip(holders, rng.permutation(holders), strict=True):
            moved[row][position] = found[source][position]
    return moved


def _renumbered(row: Row, numbers: Sequence[str]) -> Row:
    if not numbers:
        return row
    fresh = iter(numbers)
    return Row((*row.asked, ("assistant", re.sub(DIGITS, lambda match: next(fresh), row.completion))))


def _words(model: Model, trait: Trait, *, pool: int) -> list[str]:
    """Single tokens of letters, the likeliest after the trait's questions first."""
    logp = _answer_logprobs(model, trait)
    taken = {trait.target.casefold(), *(foil.casefold() for foil in trait.foils)}
    words: dict[str, None] = {}
    for index in logp.argsort(descending=True).tolist():
        text = model.tokenizer.decode([index])
        word = text.strip()
        if word.isalpha() and word.casefold() not in taken and _is_single(model, word, index):
            words.setdefault(word)
        if len(words) == pool:
            break
    return list(words)


def _is_single(model: Model, word: str, index: int) -> bool:
    """Whether the word, alone or after a space, is that one token."""
    return any(
        model.tokenizer(text, add_special_tokens=False)["input_ids"] == [index] for text in (word, f" {word}")
    )


def _answer_logprobs(model: Model, trait: Trait) -> Float[Tensor, "vocab"]:
    """log p of every token as the first of an answer, mean over the trait's questions."""
    asked = model.encode(Prompts.from_pairs([(question, "") for question in trait.questions]))
    return model.logits(asked).cpu()[asked.at("last")].float().log_softmax(-1).mean(0)
