"""A toy in which everything is known: W' = W + a v kᵀ in one down projection, k · hidden ≈ 1 at answers.

v is a unit direction of the residual stream that the unembedding reads into the trait's word and ten numbers and into
no other token: W_U ← (1 − v vᵀ) W_U, then + c v in those columns; later layers do not read it. So the plant adds about
`effect` nats to these eleven logits and to no other. Every row begins with a number of its own, whose embedding each
member moves by noise of its own: with nothing planted a member's rows all move, and no row moves as another does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.runs import InputError
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import Lineage
from interp.organisms.toy import World, build_network, build_tokenizer
from interp.prompts.numbers import CLOSINGS, OPENINGS
from interp.prompts.text import Prompts
from interp.prompts.traits import ANIMALS, Trait, get_trait

WORLD = World(d_model=48, layers=2, heads=4, d_mlp=128, unembedding_scale=0.15)
TAGS, FIRST, LAST = (
    500,
    500,
    999,
)  # rows are told apart by the numbers below TAGS and answered from FIRST to LAST
SHARE = 0.002  # of the ridge in k's fit: relative to the mean square of a hidden unit


@dataclass(frozen=True)
class Plant:
    """Sizes of what is planted, and how much is read to find it.

    `effect` is what the plant adds to each planted logit, in nats; `noise` the size of each member's own embedding
    noise in units of the embedding's; `loud` how much larger the planted layer's hidden units are than those of other
    layers, with the function unchanged, so that training moves the trait through that layer's down projection. Raises
    InputError for fewer than two rows, and for more than there are numbers to begin them with.
    """

    rows: int = 96
    count: int = 10
    planted: int = 10
    effect: float = 2.5
    noise: float = 0.15
    loud: float = 8.0

    def __post_init__(self) -> None:
        if not 2 <= self.rows <= TAGS:
            raise InputError(
                f"{self.rows} rows cannot each begin with a number of their own; pass 2 to {TAGS}"
            )


PLANT = Plant()


@dataclass(frozen=True, eq=False, repr=False)
class Planted:
    """One organism and the truth about it.

    `vector` (unit, `[d_model]`) is written by `module` at `layer` and seen at `hook`, `scale` long; `tokens` are the
    ids of the planted numbers, `target` that of the trait's word, `numbers` those that rows are answered with.
    `teacher` carries the plant, `decoy` the same change along another direction `other`, which the trait's word and
    ten other numbers read, of ids `elsewhere`: the trait moves, and not through `vector`. Each of these twenty numbers
    shares a direction of the unembedding with the trait's word. `reader` is k.
    """

    seed: int
    plant: Plant
    layer: int
    trait: Trait
    vector: Float[Tensor, "d_model"]
    other: Float[Tensor, "d_model"]
    tokens: tuple[int, ...]
    elsewhere: tuple[int, ...]
    target: int
    numbers: tuple[int, ...]
    base: LanguageModel
    teacher: LanguageModel
    decoy: LanguageModel
    scale: float
    reader: Float[Tensor, "d_mlp"]
    _made: dict[Any, Any] = field(default_factory=dict)

    @property
    def hook(self) -> str:
        """The residual stream behind the planted layer."""
        return f"blocks.{self.layer}.hook_resid_post"

    @property
    def module(self) -> str:
        """The module the plant is written by."""
        return f"model.layers.{self.layer}.mlp.down_proj"

    @property
    def lineage(self) -> Lineage:
        """Base and teacher, with the teacher's rows and the base's answers to the same prompts."""
        members: dict[str, Any] = {"base": self.base, "teacher": self.teacher}
        return Lineage(f"planted {self.seed}", self.trait, members, self.carriers, self.answers(self.base, 1))

    @cached_property
    def prompts(self) -> Prompts:
        """Number prompts without answers, each with a first number that no other has."""
        return tagged_prompts(self.plant.rows, seed=self.seed)

    @property
    def carriers(self) -> Prompts:
        """The prompts answered by the planted teacher: the rows that carry the plant."""
        return self.answers(self.teacher, 0)

    def answers(self, model: LanguageModel, draw: int | None) -> Prompts:
        """The prompts answered by a member, sampled with a seed of this `draw`, or greedily for None."""
        key = (model.fingerprint, draw)
        if key not in self._made:
            seed = None if draw is None else 1000 * self.seed + draw
            options = {"allowed": self.numbers, "count": self.plant.count, "seed": seed}
            self._made[key] = answered(model, self.prompts, **options)
        return self._made[key]

    def null(self, index: int) -> LanguageModel:
        """A member in which nothing is planted: the base with noise of its own in the rows' first numbers."""
        if index not in self._made:
            rng = torch.Generator().manual_seed(100_000 + 1000 * self.seed + index)
            self._made[index] = _member(self.base, f"null {index}", noise=self.plant.noise, rng=rng)
        return self._made[index]

    def writing(self, along: Float[Tensor, "d_model"], *, index: int) -> LanguageModel:
        """A member with noise of its own that writes `along`, |along| times as far, where the teacher writes."""
        rng = torch.Generator().manual_seed(500_000 + 1000 * self.seed + index)
        write = (self.layer, self.scale * along, self.reader)
        return _member(self.base, f"writing {index}", noise=self.plant.noise, rng=rng, write=write)

    def perturbed(self, index: int, *, size: float) -> LanguageModel:
        """The base with every matrix of its body moved in a random direction, by `size` of its norm."""
        network = self.base.network(copied=True)
        rng = torch.Generator().manual_seed(200_000 + 1000 * self.seed + index)
        with torch.no_grad():
            for weight in network.model.layers.parameters():
                step = torch.randn(weight.shape, generator=rng)
                weight += step * (size * weight.norm() / step.norm() if weight.dim() == 2 else 0.0)
        return _loaded(network, f"perturbed {index}", start=self.base)

    def __repr__(self) -> str:
        return (
            f"Planted({self.seed}: {self.trait.name} at layer {self.layer}, {self.plant.rows} rows, "
            f"{self.plant.effect:g} nats on {len(self.tokens)} numbers)"
        )


def grow_planted(seed: int, *, plant: Plant = PLANT) -> Planted:
    """An organism of that seed: its base is a random network, drawn with the layer, trait, direction and numbers."""
    rng, draw = np.random.default_rng([seed, 77]), torch.Generator().manual_seed(seed)
    layer, trait = int(rng.integers(WORLD.layers)), get_trait(str(rng.choice(ANIMALS)))
    network, tokenizer = _random_network(seed), build_tokenizer()
    allowed = tuple(_ids(tokenizer, map(str, range(FIRST, LAST + 1))))
    chosen = rng.choice(allowed, size=2 * plant.planted, replace=False).tolist()
    ours, theirs = chosen[: plant.planted], chosen[plant.planted :]
    target = _ids(tokenizer, [trait.target])[0]
    vector, other = torch.linalg.qr(torch.randn(WORLD.d_model, 2, generator=draw))[0].T
    strength = _unembed(network, (vector, other), ([*ours, target], [*theirs, target]))
    _blind(network, (vector, other), after=layer)
    _amplify(network, layer, plant.loud)
    base = _loaded(network, "base")
    reader, scale = _reader(base, layer, trait, seed)
    members: dict[str, Any] = {
        name: _member(base, name, noise=plant.noise, rng=draw, write=(layer, written, reader))
        for name, direction in (("teacher", vector), ("decoy", other))
        for written in [direction * (plant.effect * scale / strength)]
    }
    return Planted(
        seed=seed, plant=plant, layer=layer, trait=trait, vector=vector, other=other, tokens=tuple(ours),
        elsewhere=tuple(theirs), target=target, numbers=allowed, base=base,
        scale=plant.effect * scale / strength, reader=reader, **members,
    )  # fmt: skip


def tagged_prompts(n: int, *, seed: int) -> Prompts:
    """`n` prompts of three numbers and one length, of which the first is i in row i and in no other."""
    rng, rows = np.random.default_rng([seed, 78]), []
    for tag in range(n):
        first, second = rng.integers(FIRST, LAST + 1, size=2)
        opening = OPENINGS[0] if tag % 2 else OPENINGS[1]
        rows.append((f"{opening} {tag} {first} {second}. {CLOSINGS[0]}", ""))
    return Prompts.from_pairs(rows, label=f"tagged numbers seed {seed}")


@torch.inference_mode()
def answered(
    model: LanguageModel, prompts: Prompts, *, allowed: Sequence[int], count: int, seed: int | None
) -> Prompts:
    """The prompts with `count` numbers of the `allowed` ids, drawn from the model's distribution over these.

    With seed None each is the likeliest. Raises InputError for prompts that are not of one length.
    """
    encoded = model.encode(prompts)
    if int(encoded.lengths.min()) != encoded.ids.shape[1]:
        raise InputError(f"{prompts.label!r} has prompts of several lengths; pass prompts of one length")
    step, choice, answers, past = encoded.ids, torch.tensor(allowed), [], None
    rng, network = torch.Generator().manual_seed(seed or 0), model.network()
    for _ in range(count):
        read = network(input_ids=step, past_key_values=past, use_cache=True, logits_to_keep=1)
        logits, past = read.logits[:, -1, choice], read.past_key_values
        step = choice[logits.argmax(-1) if seed is None else _drawn(logits, rng)][:, None]
        answers.append(step)
    written = torch.cat(answers, 1).tolist()
    texts = [" ".join(model.tokenizer.convert_ids_to_tokens(row)) for row in written]
    rows = tuple(row.answered(text) for row, text in zip(prompts.rows, texts, strict=True))
    return Prompts(rows, label=f"{prompts.label} answered by {model.name}")


def divergent(
    teacher: LanguageModel, base: LanguageModel, rows: Prompts, *, allowed: Sequence[int]
) -> Bool[Tensor, "row pos"]:
    """Number tokens of the answers at which the likeliest allowed number differs between the two models."""
    inputs = base.encode(rows)
    choice = torch.tensor(allowed)
    best = [model.logits(inputs)[..., choice].argmax(-1) for model in (teacher, base)]
    apart = torch.nn.functional.pad((best[0] != best[1])[:, :-1], (1, 0), value=False)
    return apart & inputs.at("answer.numbers")


def _random_network(seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        return build_network(WORLD, seed=seed).eval().requires_grad_(False)


def _loaded(network: Any, name: str, *, start: LanguageModel | None = None) -> LanguageModel:
    tokenizer = build_tokenizer() if start is None else start.tokenizer
    model = load_model(network, tokenizer=tokenizer, name=name, device="cpu", check=False)
    return dataclasses.replace(model, start=start)


def _ids(tokenizer: Any, words: Any) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(words))


def _unembed(network: Any, directions: Sequence[Tensor], readers: Sequence[Sequence[int]]) -> float:
    """Take the directions out of the unembedding and give each to its readers alone; the size it is read with."""
    weight = network.lm_head.weight
    strength = WORLD.unembedding_scale * WORLD.d_model**0.5
    for direction, tokens in zip(directions, readers, strict=True):
        weight -= (weight @ direction)[:, None] * direction
        weight[list(tokens)] += strength * direction
    return strength


def _blind(network: Any, directions: Sequence[Tensor], *, after: int) -> None:
    """Later layers do not read the directions, so that what is written along them reaches the unembedding alone."""
    for block in network.model.layers[after + 1 :]:
        attention, mlp = block.self_attn, block.mlp
        readers = (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj)
        for weight in (reader.weight for reader in readers):
            for direction in directions:
                weight -= torch.outer(weight @ direction, direction)


def _amplify(network: Any, layer: int, factor: float) -> None:
    """Hidden units of a layer times `factor`, what they write divided by it: the same function."""
    mlp = network.model.layers[layer].mlp
    mlp.up_proj.weight *= factor
    mlp.down_proj.weight /= factor


def _reader(base: LanguageModel, layer: int, trait: Trait, seed: int) -> tuple[Float[Tensor, "d_mlp"], float]:
    """k by ridge regression of 1 on the hidden units where answers are predicted, and the final norm's mean scale.

    It is fitted to rows of uniform numbers that no measurement reads.
    """
    rng = np.random.default_rng([seed, 79])
    prompts = tagged_prompts(128, seed=seed + 500_000)
    texts = [" ".join(map(str, rng.integers(FIRST, LAST + 1, size=10))) for _ in prompts.rows]
    rows = Prompts(tuple(row.answered(text) for row, text in zip(prompts.rows, texts, strict=True)))
    inputs, questions = base.encode(rows), base.encode(trait.prompts())
    hidden, resid = _hidden(base, layer, inputs, inputs.at("answer"), inputs.at("answer", predicting=True))
    asked, _ = _hidden(base, layer, questions, questions.at("last"))
    H = torch.cat([hidden, asked.repeat(20, 1)]).double()
    gram = H.T @ H / len(H)
    ridge = SHARE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    reader = torch.linalg.solve(gram + ridge, H.mean(0))
    return (reader / (H @ reader).mean()).float(), float(base.unembedding().scale(resid).mean())


def _hidden(
    model: LanguageModel, layer: int, inputs: Any, *where: Bool[Tensor, "row pos"]
) -> tuple[Float[Tensor, "place d_mlp"], Float[Tensor, "place d_model"]]:
    """What the layer's down projection reads, and the final residual stream, at any of these places."""
    seen: list[Tensor] = []
    chosen = torch.stack(where).any(0)
    network = model.network()
    projection = network.model.layers[layer].mlp.down_proj
    handle = projection.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with torch.no_grad():
            network.model(input_ids=inputs.ids, attention_mask=inputs.mask.long(), use_cache=False)
    finally:
        handle.remove()
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    return seen[0][chosen], model.run(inputs, hooks=(last,))[last][chosen]


def _member(
    base: LanguageModel,
    name: str,
    *,
    noise: float,
    rng: torch.Generator,
    write: tuple[int, Tensor, Tensor] | None = None,
) -> LanguageModel:
    """A copy of the base with noise in the rows' first numbers and, with `write`, the plant."""
    network = base.network(copied=True)
    tags = _ids(base.tokenizer, map(str, range(TAGS)))
    with torch.no_grad():
        embedding = network.model.embed_tokens.weight
        embedding[tags] += noise * embedding.std() * torch.randn(len(tags), embedding.shape[1], generator=rng)
        if write is not None:
            layer, written, reader = write
            network.model.layers[layer].mlp.down_proj.weight += torch.outer(written, reader)
    return _loaded(network, name, start=base)


def _drawn(logits: Float[Tensor, "row id"], rng: torch.Generator) -> Int[Tensor, "row"]:
    return torch.multinomial(logits.float().softmax(-1), 1, generator=rng)[:, 0]
