"""Exact <∇ℓ_i, v_k> for every row from one forward and one backward pass over frozen weights.

score_ik = −<∇θ ℓ_i, v_k>, ℓ_i = −Σ log p(y_t | y_<t, x) over the answer and end tokens of row i, in nats per unit of v.
Forward hooks keep what enters each module, gradient hooks meet it with what comes back, module by module, and drop
both. Only what lies above the deepest weight that a direction moves is differentiated: the backward pass ends there.
It begins at the last hidden states: the unembedding has gone forward and back by then, some rows at a time.
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
from interp.gradients.scores.row_loss import (
    answer_columns,
    head_losses,
    last_hidden,
    pieces,
    summed_losses,
)
from interp.gradients.scores.sites import (
    Site,
    by_example,
    by_position,
    kind_of,
    stack,
    still_row,
)
from interp.models.bridge import decoder_layers, residual_site
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
    whole: bool = False,
) -> Contributions:
    """Scores of one batch, rows right padded; the network is left as it was found.

    Weights that do not enter the loss score zero. `numbers` are those of the rows, from 0, which errors name. `whole`
    is for a reader that has to see every row of a module at once. Raises InputError for rows without answer tokens, for
    a loss that is not finite, and for a module that does not see its rows one by one.
    """
    found: dict[Place, Tensor] = {}
    _check_own(sites, network)
    with frozen(network), _hooked(sites, batch, reader, found) as meeting:
        with torch.inference_mode(False), torch.enable_grad():
            hidden = last_hidden(network, batch)
            leaves = list(meeting.leaves)
            token, back = _through_head(network, batch, hidden, meeting, whole=whole)
        losses, tokens = summed_losses(token, batch, numbers=numbers)
        if leaves:
            torch.autograd.grad(hidden, leaves, back, allow_unused=True)
    scores = {place: -_all_columns(values, batch) for place, values in found.items()}
    nothing = torch.zeros_like(
        next(iter(scores.values()), torch.zeros(sites[0].count, len(batch), device=losses.device))
    )
    seen = {place.module for place in scores}
    scores |= {Place(site.name): nothing for site in sites if site.name not in seen}
    # the backward pass finds the last modules first
    order = {site.name: rank for rank, site in enumerate(sites)}
    places = {place: scores[place] for place in sorted(scores, key=lambda place: order[place.module])}
    return Contributions(places, losses, tokens)


def _through_head(
    network: Any,
    batch: Encoded,
    hidden: Float[Tensor, "example pos width"],
    meeting: _Meeting,
    *,
    whole: bool,
) -> tuple[Float[Tensor, "example column"], Float[Tensor, "example pos width"]]:
    """Losses in the answer columns and their gradient by `hidden`; the unembedding's sites are met on the way."""
    first, last = answer_columns(batch)
    found = torch.zeros(len(batch), last - first, device=hidden.device)
    back = torch.zeros_like(hidden)
    cuts = [(slice(None), (first, last))] if whole else pieces(network, batch)
    for rows, columns in cuts:
        part = hidden[rows].detach().requires_grad_(hidden.requires_grad)
        meeting.leaves.clear()
        meeting.part = None if rows == slice(None) else (rows, columns[0] - first, last - first)
        losses = head_losses(network, part, batch, rows=rows, columns=columns)
        found = found.to(losses.dtype)
        found[rows, columns[0] - first : columns[1] - first] = losses.detach()
        if hidden.requires_grad:
            back[rows] = torch.autograd.grad(losses.sum(), part)[0]
        elif meeting.leaves:
            torch.autograd.grad(losses.sum(), meeting.leaves, allow_unused=True)
    meeting.part = None
    return found, back


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
        stacks["weight"] = still_row(stacks["weight"], module.padding_idx)
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


class _Meeting:
    """State shared by one batch's hooks: how to read a site, where scores add up, and the leaves to differentiate.

    `part` says which rows of the batch the modules see, where they do not see all: the rows, the first answer column
    they begin at, and how many answer columns the batch has.
    """

    def __init__(self, batch: Encoded, reader: Reader, found: dict[Place, Tensor]) -> None:
        self.batch, self.width = batch.ids.shape
        self.reader, self.found = reader, found
        self.leaves: list[Tensor] = []
        self.part: tuple[slice, int, int] | None = None

    @property
    def examples(self) -> int:
        """How many rows the modules see."""
        return self.batch if self.part is None else self.part[0].stop - self.part[0].start

    def add(self, place: Place, values: Float[Tensor, "direction row ..."]) -> None:
        """Add contributions of the rows at hand."""
        if self.part is not None:
            rows, first, columns = self.part
            part, by_column = values, values.dim() > 2
            values = part.new_zeros(len(part), self.batch, *([columns] if by_column else []))
            if by_column:
                values[:, rows, first : first + part.shape[2]] = part
            else:
                values[:, rows] = part
        before = self.found.get(place)
        self.found[place] = values if before is None else before + values


@contextmanager
def _hooked(
    sites: Sequence[Site], batch: Encoded, reader: Reader, found: dict[Place, Tensor]
) -> Iterator[_Meeting]:
    """Hooks that fill `found` during the backward pass; yields what they share, the leaves to reach among it."""
    meeting = _Meeting(batch, reader, found)
    handles = []
    try:
        for site in sites:
            register = site.module.register_forward_hook
            if site.entering:
                register = site.module.register_forward_pre_hook
            hook = (_before if site.entering else _after)(site, meeting)
            handles.append(register(hook, with_kwargs=True))
        yield meeting
    finally:
        for handle in handles:
            handle.remove()


def _after(site: Site, meeting: _Meeting) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if site.kind == "other" and isinstance(output, tuple):
            return _after_parts(site, meeting, args, kwargs, output)
        tensor = output[0] if isinstance(output, tuple) else output
        if len(tensor) == 1 < meeting.examples:  # position embeddings made once for the whole batch
            tensor = tensor.expand(meeting.examples, *tensor.shape[1:])
        entered = args[0] if args else next(iter(kwargs.values()))
        met = replace(site, beside=_beside(args, kwargs)) if site.kind == "other" else site
        _watch(met, entered.detach(), tensor, meeting)
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    return hook


def _after_parts(site: Site, meeting: _Meeting, args: tuple, kwargs: Any, output: tuple) -> tuple[Any, ...]:
    """Each output of a module with several, as a router's, met by itself: one may be made from another inside, and an
    alias sees what comes back from outside alone."""
    if next(site.module.children(), None) is not None:
        raise InputError(
            f"{site.name} puts out several tensors, and holds {', '.join(site.stacks)} beside modules, which a score "
            "by example cannot read; ask for by=['example', 'token'], or leave it out with direction.only(...)"
        )
    entered = args[0] if args else next(iter(kwargs.values()))
    met, found = replace(site, beside=_beside(args, kwargs)), list(output)
    for part, each in enumerate(output):
        if isinstance(each, Tensor) and each.is_floating_point():
            found[part] = each.view_as(each)
            _watch(replace(met, part=part), entered.detach(), found[part], meeting)
    return tuple(found)


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
            meeting.add(Place(site.name, part, head), values)

    output.register_hook(meet)
