"""Exact <∇ℓ_i, v_k> for every row from one forward and one backward pass over frozen weights.

score_ik = −<∇θ ℓ_i, v_k>, ℓ_i = −Σ log p(y_t | y_<t, x) over the answer and end tokens of row i, in nats per unit of v.
Forward hooks keep what enters each module, gradient hooks meet it with what comes back, module by module, and drop
both. Only what lies above the deepest weight that a direction moves is differentiated: the backward pass ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import InputError, nearest
from interp.gradients.scores.sites import (
    Site,
    by_example,
    by_position,
    kind_of,
    stack,
    still_row,
)
from interp.models.bridge import decoder_layers, residual_site
from interp.models.head import own_logits
from interp.models.parameters import ParameterDirection
from interp.models.views import is_transposed
from interp.prompts.tokens import Encoded

FIRST_NORMS = ("input_layernorm", "ln_1")


class Place(NamedTuple):
    """Where a contribution belongs; outside a decomposition by head, `part` is "" and `head` −1."""

    module: str
    part: str = ""
    head: int = -1


Reader = Callable[[Site, Tensor, Tensor], Mapping[tuple[str, int], Tensor]]  # <∇ℓ, v> by (part, head)


@dataclass(frozen=True)
class Contributions:
    """Scores by place, [direction example] or [direction example pos] in fp32, and what the rows cost.

    `loss` is ℓ_i in nats, `tokens` how many tokens it sums.
    """

    places: dict[Place, Float[Tensor, "direction example ..."]]
    loss: Float[Tensor, "example"]
    tokens: Int[Tensor, "example"]

    def totals(self) -> Float[Tensor, "direction example"]:
        """Sum over places and positions: fp32 within a module, fp64 across."""
        parts = [part.flatten(2).sum(-1) if part.dim() > 2 else part for part in self.places.values()]
        return torch.stack(parts).double().sum(0)


def example_scores(
    network: Any, batch: Encoded, directions: Sequence[ParameterDirection]
) -> Float[Tensor, "direction example"]:
    """−<∇ℓ_i, v_k> in fp64; tensors are named as in `network.named_parameters()`, live LoRA factors included."""
    return contributions(network, batch, sites=find_sites(network, directions)).totals()


def whole_examples(site: Site, a: Tensor, g: Tensor) -> dict[tuple[str, int], Tensor]:
    """One contribution by module and example, through the example's own gradient."""
    return {("", -1): by_example(site, a, g)}


def positions(site: Site, a: Tensor, g: Tensor) -> dict[tuple[str, int], Tensor]:
    """One contribution by module, example and input position."""
    return {("", -1): by_position(site, a, g)}


def contributions(
    network: Any,
    batch: Encoded,
    *,
    sites: Sequence[Site],
    reader: Reader = positions,
    numbers: Sequence[int] | None = None,
) -> Contributions:
    """Scores of one batch, rows right padded; the network is left as it was found.

    Weights that do not enter the loss score zero. `numbers` are those of the rows, from 0, which errors name. Raises
    InputError for rows without answer tokens, for a loss that is not finite, and for a module that does not see its
    rows one by one.
    """
    found: dict[Place, Tensor] = {}
    _check_own(sites, network)
    with frozen(network), _hooked(sites, batch, reader, found) as leaves:
        with torch.inference_mode(False), torch.enable_grad():
            losses, tokens = row_losses(network, batch, numbers=numbers)
            total = losses.sum()
        if leaves:
            torch.autograd.grad(total, leaves, allow_unused=True)
    scores = {place: -_all_columns(values, batch) for place, values in found.items()}
    nothing = torch.zeros_like(
        next(iter(scores.values()), torch.zeros(sites[0].count, len(batch), device=losses.device))
    )
    seen = {place.module for place in scores}
    scores |= {Place(site.name): nothing for site in sites if site.name not in seen}
    # the backward pass finds the last modules first
    order = {site.name: rank for rank, site in enumerate(sites)}
    places = {place: scores[place] for place in sorted(scores, key=lambda place: order[place.module])}
    return Contributions(places, losses.detach(), tokens)


def _check_own(sites: Sequence[Site], network: nn.Module) -> None:
    own = set(network.modules())
    for site in sites:
        if site.module not in own:
            raise InputError(
                f"{site.name} is a module of another network, so it would score zero; "
                "pass the sites that find_sites gives for this one"
            )


def _all_columns(values: Tensor, batch: Encoded) -> Tensor:
    """Zeros where the unembedding did not look: it reads the columns that predict an answer only."""
    if values.dim() < 3 or values.shape[-1] == batch.ids.shape[1]:
        return values
    first, last = answer_columns(batch)
    return nn.functional.pad(values, (first, batch.ids.shape[1] - last))


def row_losses(
    network: Any, batch: Encoded, *, numbers: Sequence[int] | None = None
) -> tuple[Float[Tensor, "example"], Int[Tensor, "example"]]:
    """ℓ_i in nats and its number of tokens; the unembedding reads only columns that predict an answer."""
    return summed_losses(token_losses(network, batch), batch, numbers=numbers)


def summed_losses(
    losses: Float[Tensor, "example pos"], batch: Encoded, *, numbers: Sequence[int] | None = None
) -> tuple[Float[Tensor, "example"], Int[Tensor, "example"]]:
    """Losses of rows from those of their tokens; InputError for a row without a token and for one not finite.

    `numbers` are those of the rows, from 0, by which errors name them (counting from 1).
    """
    tokens = batch.at("answer+end", predicting=True).sum(1)
    rows = losses.sum(1)
    _check_losses(rows.detach(), tokens, batch, numbers)
    return rows, tokens


def token_losses(network: Any, batch: Encoded) -> Float[Tensor, "example pos"]:
    """−log p of every token that is answer or end, zero elsewhere; column t is about token t + first."""
    inner = (
        network.get_base_model() if hasattr(network, "get_base_model") else network
    )  # a PeftModel wraps it
    hidden = inner.base_model(input_ids=batch.ids.to(network.device), use_cache=False)[0]
    first, last = answer_columns(batch)
    answer = batch.at("answer+end")[:, first + 1 : last + 1]
    labels = batch.ids[:, first + 1 : last + 1].masked_fill(~answer, -100).to(hidden.device)
    logits = own_logits(network, hidden[:, first:last])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    losses = nn.functional.cross_entropy(logits, labels.flatten(), reduction="none")
    return losses.view(labels.shape)


def answer_columns(batch: Encoded) -> tuple[int, int]:
    """First column that predicts an answer or end token of any row, and one past the last.

    Raises InputError for rows without answers.
    """
    columns = batch.at("answer+end", predicting=True).any(0).nonzero()[:, 0]
    if not len(columns):
        raise InputError(f"{batch.label} has no answer tokens, so no loss; pass rows with completions")
    return int(columns[0]), int(columns[-1]) + 1


def _check_losses(losses: Tensor, tokens: Tensor, batch: Encoded, numbers: Sequence[int] | None) -> None:
    def name(row: int) -> str:
        whole = f"a batch of {batch.label}" if numbers is None else batch.label
        return f"row {(row if numbers is None else numbers[row]) + 1} of {whole}"

    if not tokens.all():
        row = int((tokens == 0).nonzero()[0])
        raise InputError(f"{name(row)} has no answer tokens, so no loss; drop rows without a completion")
    if not torch.isfinite(losses).all():
        row = int((~torch.isfinite(losses)).nonzero()[0])
        raise InputError(
            f"{name(row)} has a loss of {losses[row].item()}; load the model in float32 or drop the row"
        )


def find_sites(network: Any, directions: Sequence[ParameterDirection]) -> list[Site]:
    """Every module that holds a weight some direction moves and every hook of a virtual bias, in the network's order.

    InputError with the nearest names for a weight or hook the network does not have.
    """
    moved = {name for direction in directions for name in direction.tensors}
    owners = _owners(network)
    for name in moved:
        if name not in owners:
            raise InputError(
                f"weight {nearest(name, owners)}; directions name the weights of the model they move"
            )
    by_module: dict[str, dict[str, str]] = {}
    for name in moved:
        for module_name, leaf in owners[name]:
            by_module.setdefault(module_name, {})[leaf] = name
    modules = dict(network.named_modules())
    ordered = [name for name in modules if name in by_module]
    sites = [_site(name, modules[name], by_module[name], directions) for name in ordered]
    ranks = {module: rank for rank, module in enumerate(network.modules())}
    return sorted([*sites, *_bias_sites(network, directions)], key=lambda site: _rank(site, ranks, modules))


def _rank(site: Site, ranks: Mapping[nn.Module, int], modules: Mapping[str, nn.Module]) -> float:
    """Where the site comes in a forward pass; the first norm of a layer is often written down after its attention."""
    layer, _, leaf = site.name.rpartition(".")
    if site.kind == "hook":
        last = max(ranks[module] for module in site.module.modules())
        return ranks[site.module] - 0.5 if site.entering else last + 0.5
    return ranks[modules[layer]] + 0.5 if leaf in FIRST_NORMS else ranks[site.module]


def _owners(network: nn.Module) -> dict[str, list[tuple[str, str]]]:
    """For every weight by its first name: the modules and leaf names that hold it, more than one where tied."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found: dict[str, list[tuple[str, str]]] = {}
    for module_name, module in network.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            found.setdefault(names[id(parameter)], []).append((module_name, leaf))
    return found


def _site(name: str, module: Any, weights: dict[str, str], directions: Sequence[ParameterDirection]) -> Site:
    kind = kind_of(module)
    transposed = kind == "matrix" and is_transposed(module)
    stacks = {
        leaf: stack(
            [direction.tensors.get(weight) for direction in directions],
            like=module.get_parameter(leaf),
            transposed=transposed,
        )
        for leaf, weight in weights.items()
    }
    if kind == "embedding":
        still_row(stacks["weight"], module.padding_idx)
    return Site(name, module, kind, stacks, weights, len(directions))


def _bias_sites(network: Any, directions: Sequence[ParameterDirection]) -> list[Site]:
    """Virtual biases on the residual stream: what leaves layer L is resid_post L and resid_pre L + 1."""
    hooks = dict.fromkeys(hook for direction in directions for hook in direction.biases)
    if not hooks:
        return []
    layers: Any = decoder_layers(network)
    by_place: dict[int, list[str]] = {}
    for hook in hooks:
        layer, end = residual_site(hook, len(layers))
        by_place.setdefault(layer - (end == "pre"), []).append(hook)
    like = next(network.parameters())
    sites = []
    for place, names in by_place.items():
        vectors = [_bias_sum(direction, names) for direction in directions]
        module = layers[max(place, 0)]
        stacks = {"bias": stack(vectors, like=like)}
        weights: dict[str, str] = dict(zip(("bias", "bias by its other name"), names, strict=False))
        sites.append(Site(names[0], module, "hook", stacks, weights, len(directions), entering=place < 0))
    return sites


def _bias_sum(direction: ParameterDirection, names: Sequence[str]) -> Tensor | None:
    vectors = [direction.biases[name] for name in names if name in direction.biases]
    return torch.stack(vectors).sum(0) if vectors else None


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """While open no weight asks for a gradient; afterwards those that did do so again."""
    asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class _Meeting:
    """State shared by one batch's hooks: how to read a site, where scores add up, and the leaves to differentiate."""

    examples: int
    width: int
    reader: Reader
    found: dict[Place, Tensor]
    leaves: list[Tensor]


@contextmanager
def _hooked(
    sites: Sequence[Site], batch: Encoded, reader: Reader, found: dict[Place, Tensor]
) -> Iterator[list[Tensor]]:
    """Hooks that fill `found` during the backward pass; yields the tensors to differentiate down to."""
    examples, width = batch.ids.shape
    meeting = _Meeting(examples, width, reader, found, [])
    handles = []
    try:
        for site in sites:
            register = site.module.register_forward_hook
            if site.entering:
                register = site.module.register_forward_pre_hook
            hook = (_before if site.entering else _after)(site, meeting)
            handles.append(register(hook, with_kwargs=True))
        yield meeting.leaves
    finally:
        for handle in handles:
            handle.remove()


def _after(site: Site, meeting: _Meeting) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        tensor = output[0] if isinstance(output, tuple) else output
        if len(tensor) == 1 < meeting.examples:  # position embeddings made once for the whole batch
            tensor = tensor.expand(meeting.examples, *tensor.shape[1:])
        entered = args[0] if args else next(iter(kwargs.values()))
        met = replace(site, beside=_beside(args, kwargs)) if site.kind == "other" else site
        _watch(met, entered.detach(), tensor, meeting)
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    return hook


def _beside(args: tuple, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """What a module is called with after its first argument, as constants."""
    named = list(kwargs.items())[0 if args else 1 :]
    still = [each.detach() if isinstance(each, Tensor) else each for each in args[1:]]
    return still, {name: each.detach() if isinstance(each, Tensor) else each for name, each in named}


def _before(site: Site, meeting: _Meeting) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = args[0] if args else kwargs["hidden_states"]
        _watch(site, tensor.detach(), tensor, meeting)

    return hook


def _is_turned(entered: Tensor, width: int) -> bool:
    """Whether a module inside the heads sees [example, head, pos, d]; strides tell where there are as many of both."""
    if entered.dim() != 4 or entered.shape[2] != width:
        return False
    return entered.shape[1] != width or entered.stride(1) < entered.stride(2)


def _watch(site: Site, entered: Tensor, output: Tensor, meeting: _Meeting) -> None:
    """Backward hook: combine the gradient of `output` with the saved input and add the scores to `found`."""
    flat = (
        output.dim() == 2 and len(output) == meeting.examples * meeting.width
    )  # as routers and experts see rows
    if not flat and (output.dim() < 3 or len(output) != meeting.examples):
        raise InputError(
            f"{site.name} puts out {list(output.shape)} for {meeting.examples} rows, so they cannot be told apart; "
            "leave it out with direction.only(...)"
        )
    if not output.requires_grad:
        meeting.leaves.append(output.requires_grad_())
    turned = _is_turned(entered, meeting.width)

    def meet(gradient: Tensor) -> None:
        pair = (entered.transpose(1, 2), gradient.transpose(1, 2)) if turned else (entered, gradient)
        if flat:
            shape = (meeting.examples, meeting.width)
            pair = (
                entered if site.kind == "other" else entered.unflatten(0, shape),
                gradient.unflatten(0, shape),
            )
        for (part, head), values in meeting.reader(site, *pair).items():
            place = Place(site.name, part, head)
            before = meeting.found.get(place)
            meeting.found[place] = values if before is None else before + values

    output.register_hook(meet)
