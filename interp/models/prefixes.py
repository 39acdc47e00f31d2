"""Next-token logits after many token sequences, what they share computed once.

A sequence that begins another needs no row of its own. Where that leaves much to compute twice, sequences form a tree:
each hangs on the longest other one that begins it, and all on what they begin with together; keys and values of a
beginning are kept for what goes on from it, so that a sequence costs its own tokens alone. A network that keeps other
states than keys and values reads whole rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.caches import is_attention_alone, picked_rows
from interp.models.head import last_logits, own_logits
from interp.models.language import LanguageModel
from interp.models.once import Kept, heard, kept_of
from interp.models.seam import Model
from interp.models.views import unwrapped
from interp.prompts.text import grouped
from interp.prompts.tokens import Encoded, Role

Ids = tuple[int, ...]
Found = tuple[list[int], Float[Tensor, "place vocab"]]
Reader = Callable[[Encoded, list[int], list[int]], Tensor]  # logits of rows at (row, position)
PASS = 32  # tokens for whose cost a pass of few tokens goes through the weights, by measurement on 134 M parameters
TOKENS_AT_ONCE = 4096  # in the rows, or the keys and values, of one pass


def prefix_logits(network: Model | torch.nn.Module, prefixes: Sequence[Ids]) -> Iterator[Found]:
    """Logits of the token after each of the `prefixes`, all distinct: some at a time, with their places among them.

    A model's open hooks act; a network, whose adapters may be live, keeps its graph where gradients are on.
    """
    if isinstance(network, torch.nn.Module):
        yield from _network_logits(unwrapped(network), prefixes)
    elif isinstance(network, LanguageModel) and not network._edits:
        yield from _network_logits(network.hf, prefixes, kept_of(network.backbone))
    else:
        yield from whole_rows(partial(_model_reader, network), prefixes)


def _network_logits(network: Any, prefixes: Sequence[Ids], kept: Kept | None = None) -> Iterator[Found]:
    """The cheaper of two ways: the tree costs fewer tokens, whole rows fewer passes."""
    tree, hosts = Tree.of(prefixes), _hosts(prefixes)
    longest = max(map(len, prefixes))
    if tree.cost() < PASS + len(hosts) * longest:
        yield from tree.walk(network, kept)
    else:
        yield from whole_rows(partial(_network_reader, network), prefixes)


@dataclass(frozen=True)
class Tree:
    """Sequences by place, which of them go on from which (from -1 those that begin with no other), and the number of
    tokens that all begin with."""

    prefixes: Sequence[Ids]
    children: dict[int, list[int]]
    shared: int

    @classmethod
    def of(cls, prefixes: Sequence[Ids]) -> Tree:
        """The tree of distinct sequences."""
        children: dict[int, list[int]] = {}
        open_: list[int] = []  # from the top to the sequence before, each the beginning of the next
        for place in sorted(range(len(prefixes)), key=prefixes.__getitem__):
            while open_ and not _begins(prefixes[open_[-1]], prefixes[place]):
                open_.pop()
            children.setdefault(open_[-1] if open_ else -1, []).append(place)
            open_.append(place)
        first, *_, last = (prefixes[place] for place in (children[-1][0], children[-1][-1]))
        alike = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
        return cls(prefixes, children, alike)

    def cost(self, parents: Sequence[int] = (-1,), done: int | None = None) -> int:
        """Tokens that the tree computes, those that every pass costs by itself among them."""
        done = self.shared if done is None else done
        total = (PASS + self.shared) * (parents[0] < 0 < self.shared)
        for part in self._parts(parents):
            places = [child for _, child in part]
            length = len(self.prefixes[places[0]])
            total += PASS + len(places) * (length - done) + self.cost(places, length)
        return total

    def walk(self, network: Any, kept: Kept | None = None) -> Iterator[Found]:
        """Logits after every sequence, beginnings first, which are kept where that is asked for; by whole rows where a
        network keeps more of the shared beginning than keys and values."""
        cache, above = None, []
        if self.shared:
            with heard(kept) as above:
                _, cache = last_logits(network, _ids([self.prefixes[0][: self.shared]], network))
            if not is_attention_alone(cache):
                yield from whole_rows(partial(_network_reader, network), self.prefixes)
                return
        for part in self._parts((-1,)):
            with heard(kept) as found:
                places, logits, own, known = self._forward(network, part, cache, self.shared)
            if kept is not None:
                kept.put([self.prefixes[place] for place in places], [above, found] if known else [found])
            yield places, logits
            yield from self._below(network, places, own, len(self.prefixes[places[0]]))

    def _below(self, network: Any, parents: Sequence[int], cache: Any, done: int) -> Iterator[Found]:
        """What goes on from `parents`, whose first `done` tokens are the rows of the cache."""
        for part in self._parts(parents):
            places, logits, own, _ = self._forward(network, part, cache, done)
            yield places, logits
            yield from self._below(network, places, own, len(self.prefixes[places[0]]))

    def _forward(
        self, network: Any, part: list[tuple[int, int]], cache: Any, done: int
    ) -> tuple[list[int], Tensor, Any, int]:
        """The sequences of one pass, logits after each, their cache, and how many tokens of theirs it did not read."""
        places = [child for _, child in part]
        own = None if cache is None else picked_rows(cache, [row for row, _ in part], network.device)
        known = 0 if own is None else done
        ids = _ids([self.prefixes[place][known:] for place in places], network)
        return places, *last_logits(network, ids, own), known

    def _parts(self, parents: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
        """(row of the parent, sequence) of what goes on from the parents: one length and one pass at a time."""
        below = [
            (row, child) for row, parent in enumerate(parents) for child in self.children.get(parent, ())
        ]
        for same in grouped(len(self.prefixes[child]) for _, child in below).values():
            size = max(1, TOKENS_AT_ONCE // len(self.prefixes[below[same[0]][1]]))
            for start in range(0, len(same), size):
                yield [below[index] for index in same[start : start + size]]


def whole_rows(read: Reader, prefixes: Sequence[Ids]) -> Iterator[Found]:
    """Logits after every sequence, read in whole rows: those of the sequences that begin no other one."""
    hosts = _hosts(prefixes)
    size = max(1, TOKENS_AT_ONCE // max(map(len, prefixes)))
    for start in range(0, len(hosts), size):
        part = list(hosts)[start : start + size]
        found = [(row, place) for row, host in enumerate(part) for place in hosts[host]]
        places = [place for _, place in found]
        batch = _padded([prefixes[host] for host in part])
        yield places, read(batch, [row for row, _ in found], [len(prefixes[place]) - 1 for place in places])


def _hosts(prefixes: Sequence[Ids]) -> dict[int, list[int]]:
    """The sequences that begin no other one, and for each those that it holds, itself among them."""
    hosts: dict[int, list[int]] = {}
    host = -1
    for place in sorted(range(len(prefixes)), key=prefixes.__getitem__, reverse=True):
        if host < 0 or not _begins(prefixes[place], prefixes[host]):
            host = place
        hosts.setdefault(host, []).append(place)
    return hosts


def _begins(one: Ids, other: Ids) -> bool:
    return other[: len(one)] == one


def _model_reader(model: Model, batch: Encoded, rows: list[int], at: list[int]) -> Tensor:
    return model.logits(batch)[rows, at]


def _network_reader(network: Any, batch: Encoded, rows: list[int], at: list[int]) -> Tensor:
    """As `predicted_logits` of the measures: padding is on the right, so that causal attention needs no mask."""
    hidden = network.base_model(input_ids=batch.ids.to(network.device), use_cache=False)[0][rows, at]
    return own_logits(network, hidden)


def _ids(rows: Sequence[Ids], network: Any) -> Int[Tensor, "row pos"]:
    return torch.tensor(rows, device=network.device)


def _padded(rows: Sequence[Ids]) -> Encoded:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.arange(width)[None] < torch.tensor([len(row) for row in rows])[:, None]
    return Encoded(ids, mask, int(Role.PROMPT) * mask.long(), "beginnings")
