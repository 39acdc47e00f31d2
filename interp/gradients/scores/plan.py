"""Which route computes the scores, and why: the cheapest exact one that gives the output asked for.

In units of F, one forward pass over N positions with weights of I x O: forward and input gradients cost 2 F, then
    direction-first  V a         K F           any position
    gradient-first   G = g aᵀ    F + K F / T   examples only, T positions per row
    low-rank         R a, Lᵀ g   K F r (I + O) / (I O)
    forward-mode     F (1 + 2 K) in all        loss tokens, nothing kept for a backward pass
A training step is 3 F. What lies below the deepest weight a direction moves costs its forward pass only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from interp.core.errors import InputError, nearest
from interp.gradients.scores.sites import Site

Route = Literal["low-rank", "direction-first", "gradient-first", "activation-gradient", "forward-mode"]
KEYS = ("example", "token", "position", "module", "head")


@dataclass(frozen=True)
class RoutePlan:
    """The route, the reason for it, its arithmetic over that of a training step, and where differentiation ends."""

    route: Route
    reason: str
    cost: float
    deepest: str

    def __repr__(self) -> str:
        return f"{self.route} ({self.reason}), {self.cost:.2f} of a training step, down to {self.deepest}"


def check_keys(by: Collection[str]) -> tuple[str, ...]:
    """The output's keys in their order; InputError for an unknown key or a pair no route gives."""
    asked = (by,) if isinstance(by, str) else tuple(by)
    for key in asked:
        if key not in KEYS:
            raise InputError(f"by {nearest(key, KEYS)}; pass any of {', '.join(KEYS)}")
    if not asked:
        raise InputError("by holds no key, so no score to tell apart; pass by=['example']")
    for other in ("position", "module", "head"):
        if "token" in asked and other in asked:
            raise InputError(
                f"by=['token', {other!r}] asks for loss tokens, which forward mode gives, and for a {other}, which "
                f"the backward pass gives; ask for them in two calls"
            )
    wanted = {*asked, "module"} if "head" in asked else set(asked)  # a head is one of its module's
    return tuple(key for key in KEYS if key in wanted)


def make_plan(sites: Sequence[Site], *, by: Collection[str], length: float) -> RoutePlan:
    """Choose the cheapest exact route to scores by the keys `by`; `length` is the mean number of positions in a row."""
    dense = max((len(_dense_at(site)) for site in sites), default=0)
    thin = max((len(s.thin_at) for site in sites for s in site.stacks.values()), default=0)
    route, reason = _choose(sites, dense, by)
    return RoutePlan(route, reason, _cost(route, sites, dense, thin, length), sites[0].name)


def _choose(sites: Sequence[Site], dense: int, by: Collection[str]) -> tuple[Route, str]:
    if "token" in by:
        return "forward-mode", "loss tokens are told apart by forward mode only"
    if all(site.kind == "hook" for site in sites):
        return "activation-gradient", "virtual biases need the gradient of the residual stream and no weight"
    if not dense and any(s.thin_at for site in sites for s in site.stacks.values()):
        return "low-rank", "every matrix is a product of thin factors"
    if not dense:
        return "direction-first", "vectors and rows of embeddings meet the tokens as they are"
    if "position" in by or "head" in by:
        return (
            "direction-first",
            f"a {'position' if 'position' in by else 'head'} is told apart before summing",
        )
    if dense > 1:
        return "gradient-first", f"{dense} dense directions share each example's gradient"
    return "direction-first", "one dense direction costs one more pass over the tokens"


def _dense_at(site: Site) -> tuple[int, ...]:
    """Directions with a dense matrix at a site whose matrix meets every token in full."""
    return site.stacks["weight"].dense_at if site.kind == "matrix" and "weight" in site.stacks else ()


def _cost(route: Route, sites: Sequence[Site], dense: int, thin: int, length: float) -> float:
    if route == "forward-mode":
        return (1 + 2 * sites[0].count) / 3
    extra = {"gradient-first": 1 + dense / length, "direction-first": float(dense)}.get(route, 0.0)
    return (2 + extra + thin * _thin_share(sites)) / 3


def _thin_share(sites: Sequence[Site]) -> float:
    """r (I + O) / (I O) of the low-rank matrices, weighted by their size: the cost of one direction over F."""
    work = size = 0.0
    for site in sites:
        stack = site.stacks.get("weight")
        if site.kind == "matrix" and stack is not None and stack.thin is not None:
            rows, columns = stack.thin.left.shape[0], stack.thin.right.shape[1]
            work += stack.thin.owner.shape[0] / len(stack.thin_at) * (rows + columns)
            size += rows * columns
    return work / size if size else 0.0
