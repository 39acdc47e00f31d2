"""The steering vector that a data set would install, from the data and the base alone.

A bias b added to the residual stream at a hook, at the positions that predict an answer, becomes after one unit step of
gradient descent from b = 0

    v = −(1/n) Σ_i Σ_t ∂ℓ_i/∂h_it,    ℓ_i = −Σ log p(answer and end tokens of row i), in nats,

less the same of neutral rows. Beside it stands the bias that a training of b alone arrives at on the rows, the base
frozen, less that of the neutral rows under the same recipe. Neither needs the teacher; `compare_directions` asks how
far they agree with its shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.arrays import Direction, check_lineage
from interp.activations.interventions import steer
from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.progress import progress
from interp.features.residual_gradients import ResidualNetwork, pulled
from interp.figures import Result, bars, captioned, panels
from interp.measures.losses import completion_loss
from interp.measures.margins import margin
from interp.models.parameters import check_residual
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.prompts.notes import noting
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.training.students import shuffled_batches

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel
    from interp.prompts.text import Prompts

WHERE = "predicting answer+end"


@dataclass(frozen=True)
class BiasRecipe:
    """How a bias is fitted: Adam at a constant rate from zero, on shuffled batches of rows; the loss is per token."""

    lr: float = 1e-2
    batch_size: int = 64
    epochs: int = 1
    seed: int = 0


BIAS = BiasRecipe()
"""The default: one pass over the rows in batches of 64, at 0.01."""


@door
@exactly
def installed_direction(
    model: LanguageModel,
    rows: Prompts | Encoded,
    hook: str,
    *,
    neutral: Prompts | Encoded | None = None,
    batch_size: int = 64,
) -> Direction:
    """Make the direction that one gradient step on rows would give a bias at a hook, less that of neutral rows.

    Args:
        model: where the step is taken, such as a base.
        rows: rows with answers, or their tokens.
        hook: blocks.L.hook_resid_pre or hook_resid_post.
        neutral: rows of a neutral teacher, best at the same prompts; nothing is taken off without.
        batch_size: rows per pass.

    Returns:
        `Direction` in units of the stream per unit step, mean over rows of the sum over the positions that predict an
        answer or end token; `steer`, `ablate`, `Activations.project` and `interp.gradients.steering` take it.

    Raises:
        InputError: for a hook elsewhere, rows without answers and a loss that is not finite.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> rows, neutral = lineage.numbers[:16], lineage.neutral_numbers[:16]
        >>> v = interp.joined.installed_direction(lineage.base, rows, "blocks.0.hook_resid_post", neutral=neutral)
        >>> interp.steer(lineage.base, hook=v.hook, vector=v, scale=0.1) is not None
        True
    """
    check_residual(model, [hook])
    vector = partial(_pull, ResidualNetwork.of(model, hook), batch_size=batch_size)
    return _less_neutral(model, rows, hook, neutral, vector, "installed by a step on")


@door
@exactly
def fitted_direction(
    model: LanguageModel,
    rows: Prompts | Encoded,
    hook: str,
    *,
    neutral: Prompts | Encoded | None = None,
    recipe: BiasRecipe = BIAS,
) -> Direction:
    """Make the direction that a bias at a hook learns from rows, the model frozen, less what neutral rows teach it.

    It is added at the positions that predict an answer or end token. `recipe` is `BIAS` by default: Adam (arXiv
    1412.6980) at a constant rate of 0.01, one pass over the rows in batches of 64. Raises InputError for fewer rows
    than one batch, and where `installed_direction` does.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> fitted_direction(lineage.base, lineage.numbers[:64], "blocks.0.hook_resid_post").hook
    'blocks.0.hook_resid_post'
    """
    check_residual(model, [hook])
    vector = partial(_fitted, ResidualNetwork.of(model, hook), recipe=recipe)
    return _less_neutral(model, rows, hook, neutral, vector, "fitted to")


@door
@noting
@exactly
def compare_directions(
    model: LanguageModel,
    trait: AnyTrait,
    directions: Mapping[str, Direction],
    *,
    against: Mapping[str, Direction],
    norm: float | None = None,
) -> Result:
    """Compare directions at one hook with others, such as a teacher's shift, and what adding each does to a margin.

    Args:
        model: whose margin is asked while each direction is added.
        trait: whose margin.
        directions: what is compared, such as an installed and a fitted one and those of neutral rows, by name.
        against: what it is compared with, such as a teacher's mean shift and that of a teacher of another trait.
        norm: the length at which every direction is added, at every position; by default that of the first of
            `against`, so that directions are compared and not lengths.

    Returns:
        One row per direction, those of `against` last: direction, norm, for each of `against` cosine_NAME and
        projection_NAME (length along it, in units of the stream), and margin, the change of the trait's margin in nats
        when the direction is added, with margin_taken, when it is taken off.

    Raises:
        InputError: for directions at different hooks, of another lineage, of norm 0 or of one name on both sides,
            a norm that is not positive, and nothing to compare.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> hook = "blocks.0.hook_resid_post"
        >>> shift = interp.shift(lineage.teacher, lineage.numbers[:16], hooks=[hook]).direction(hook)
        >>> found = {"step": interp.joined.installed_direction(lineage.base, lineage.numbers[:16], hook)}
        >>> compared = interp.joined.compare_directions(lineage.base, "owl", found, against={"teacher": shift})
        >>> compared.frame["direction"].tolist()
        ['step', 'teacher']
    """
    trait, hook = find_trait(trait), _one_hook(model, directions, against)
    length = float(next(iter(against.values())).vector.norm()) if norm is None else norm
    if not 0 < length < math.inf:
        raise InputError(f"norm={length} adds nothing that could be compared; pass a positive number")
    before = margin(model, trait)
    rows = []
    for name, direction in progress({**directions, **against}.items(), "directions", unit="direction"):
        line = {"direction": name, "norm": float(direction.vector.norm())}
        for other, reference in against.items():
            line |= _agreement(direction.vector, reference.vector, other)
        for column, sign in (("margin", 1.0), ("margin_taken", -1.0)):
            with steer(model, hook=hook, vector=_unit(direction), scale=sign * length) as steered:
                line[column] = margin(steered, trait) - before
        rows.append(line)
    notes = (
        f"added at every position with a norm of {length:.3g}; the margin of {model.name} is {before:+.3f} nats",
        "of one lineage: other trainings are other replicates",
    )
    label = f"directions at {hook} of {model.name}, {trait.name}"
    return Result(label, pd.DataFrame(rows), "nats", notes, draw=_draw)


def _less_neutral(
    model: LanguageModel, rows: Any, hook: str, neutral: Any, vector: Any, label: str
) -> Direction:
    """The vector of rows, less that of neutral rows if given, with where it is from."""
    inputs = model.encode(rows)
    found, told = vector(inputs), f"{label} {inputs.label}"
    if neutral is not None:
        other = model.encode(neutral)
        found, told = found - vector(other), f"{told}, less {other.label}"
    return Direction(found, hook, told, model.fingerprint, lineage_root(model))


def _pull(network: ResidualNetwork, inputs: Encoded, *, batch_size: int) -> Float[Tensor, "d_model"]:
    """Mean over rows of −Σ_t ∂ℓ/∂h over the positions that predict an answer."""
    total: Any = 0.0
    for part in pulled(network, inputs, batch_size=batch_size):
        total = total + part.pull[part.batch.at(WHERE).to(part.pull.device)].double().sum(0)
    return (total / len(inputs)).float().cpu()


def _fitted(network: ResidualNetwork, inputs: Encoded, *, recipe: BiasRecipe) -> Float[Tensor, "d_model"]:
    """The bias after training on the rows."""
    if len(inputs) < recipe.batch_size:
        raise InputError(
            f"{len(inputs)} rows of {inputs.label} are fewer than one batch of {recipe.batch_size}; pass more rows, or "
            "a recipe with a smaller batch_size"
        )
    weight = next(network.module.parameters())
    width = network.module.config.get_text_config().hidden_size
    bias = torch.zeros(width, device=weight.device, requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=recipe.lr)
    for batch in shuffled_batches(inputs, size=recipe.batch_size, epochs=recipe.epochs, seed=recipe.seed):
        where = batch.at(WHERE).to(weight.device)[..., None]
        with torch.enable_grad(), network.edited(lambda h, where=where: h + where * bias.to(h)):
            loss = completion_loss(network.module, batch)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss of the bias is {loss.item()} on a batch of {inputs.label}; lower the rate {recipe.lr}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return bias.detach().float().cpu()


def _one_hook(
    model: LanguageModel, directions: Mapping[str, Direction], against: Mapping[str, Direction]
) -> str:
    """The hook all directions stand at; InputError where it is none, or one is of another lineage or zero."""
    if not directions or not against:
        raise InputError(
            f"{len(directions)} directions against {len(against)} leave nothing to compare; pass one of each at least"
        )
    if both := sorted(set(directions) & set(against)):
        raise InputError(
            f"{both[0]!r} names one of the directions and one of those against; give each its own name"
        )
    hook = next(iter(against.values())).hook
    for name, direction in {**directions, **against}.items():
        check_lineage(direction, lineage_root(model), model.name)
        if direction.hook != hook:
            raise InputError(f"{name} stands at {direction.hook} and others at {hook}; compare at one hook")
        if not direction.vector.norm() > 0:
            raise InputError(f"{name} has norm 0, so no angle with anything; check the rows it is from")
    return hook


def _agreement(
    vector: Float[Tensor, "d_model"], other: Float[Tensor, "d_model"], name: str
) -> dict[str, float]:
    """Cosine with another vector, and the length along it."""
    along = float(vector.double() @ other.double() / other.double().norm())
    return {f"cosine_{name}": along / float(vector.double().norm()), f"projection_{name}": along}


def _unit(direction: Direction) -> Float[Tensor, "d_model"]:
    return direction.vector / direction.vector.norm()


def _draw(result: Result) -> go.Figure:
    """Left: cosine with each reference. Right: what adding each direction does to the margin."""
    names = [name for name in result.frame if name.startswith("cosine_")]
    long = result.frame.melt("direction", names, "with", "cosine")
    long["with"] = long["with"].str.removeprefix("cosine_")
    angles = bars(long, x="cosine", y="direction", colour="with", title="cosine", unit="cosine")
    gains = bars(result.frame, x="margin", y="direction", title="margin when added", unit=result.unit)
    return captioned(panels([angles, gains], title=result.label, across=True), result.notes[0])
