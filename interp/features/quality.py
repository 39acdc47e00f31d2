"""Whether a dictionary speaks for a model: what it reconstructs there, and what the model loses with only that.

explained variance = 1 − Σ|h − ĥ|² / Σ|h − h̄|², h̄ the member's own mean; loss recovered = (L_ablated − L_spliced) /
(L_ablated − L), L the mean −log p of answer and end tokens, spliced with ĥ and ablated with h̄ in place of h. Tokens
that stand out in norm are in no sum over h, and neither spliced nor ablated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp import figures
from interp.activations.outliers import Norms, Outliers, norm_limit
from interp.activations.recording import BATCH_SIZE, Selection, stream
from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.splice import reconstructed
from interp.measures.losses import LOSS_UNIT, answer_loss
from interp.models.lineage import Lineage
from interp.models.precision import exactly
from interp.models.seam import lineage_root
from interp.prompts.notes import noting
from interp.prompts.tokens import KEEPING
from interp.stats.moments import Running, total

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model
    from interp.prompts.text import Encoded, Prompts

UNIT = f"losses in {LOSS_UNIT}; the rest shares and counts"
EXPLAINED_GAP = 0.05  # explained variance that a member may lie below the first one's
RECOVERED = 0.8  # share of the loss that must be recovered


@door
@noting
@exactly
def quality_card(
    dictionary: Dictionary,
    members: Mapping[str, Model] | Lineage,
    prompts: Prompts | Encoded,
    *,
    positions: str = "all",
    batch_size: int = BATCH_SIZE,
) -> figures.Result:
    """One line per member: L0, explained variance and dead share at `positions`, and three losses over answer tokens.

    L0 is the mean number of active features per token, dead_share that of features which fire at none of these tokens.
    Losses are nats per answer token, end token counted: `loss` as it is, `loss_spliced` with every activation at the
    hook replaced by its reconstruction, `loss_ablated` with every one replaced by the member's mean over `positions`;
    `loss_recovered` is NaN where ablating does not raise the loss. Tokens beyond the dictionary's limit, or where it
    has none beyond ten times the first member's median norm at `positions`, are left out, named in the notes, and kept
    as they are by splice and ablation; "all with outliers" takes them like the others. `faithful` is False, and a note
    says why, where explained variance lies more than 0.05 below the first member's or less than 0.8 of the loss is
    recovered. Members of a lineage that descend from another base are left out and named. InputError for rows without
    answers, and where dictionary and member do not belong together.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> quality_card(dictionary, lineage, lineage.numbers[:8]).frame["member"].iloc[0]
    'base'
    """
    chosen, notes = _belonging(dictionary, members)
    limited = _limited(dictionary, next(iter(chosen.values())), prompts, positions, batch_size)
    lines = [
        {"member": name, **_line(limited, model, prompts, positions, batch_size)}
        for name, model in chosen.items()
    ]
    notes += _left_out({name: line.pop("outliers") for name, line in zip(chosen, lines, strict=True)}, chosen)
    frame = pd.DataFrame(lines)
    warnings = [_reasons(line, lines[0]) for line in lines]
    frame["faithful"] = [not reasons for reasons in warnings]
    notes += tuple(reason for reasons in warnings for reason in reasons) + _undefined(frame)
    return figures.Result(
        label=f"quality of {dictionary.label} at {dictionary.hook}",
        frame=frame,
        unit=UNIT,
        notes=(*dictionary.notes, *notes, f"explained variance, L0 and dead share at positions {positions}"),
        draw=_draw,
    )


@dataclass(frozen=True, eq=False)
class Fit:
    """Running sums of a dictionary's fit: moments of h, squared error, activity."""

    moments: Running
    error: float
    active: int
    fired: Bool[Tensor, "feature"]

    @classmethod
    def of(
        cls, h: Float[Tensor, "token d_in"], features: Float[Tensor, "token feature"], rebuilt: Tensor
    ) -> Fit:
        """The sums over one block, in float64."""
        h, on = h.double(), features > 0
        return cls(Running.of(h, total), total(h - rebuilt.double()), int(on.sum()), on.any(0).cpu())

    def __add__(self, other: Fit) -> Fit:
        """The sums over both blocks."""
        return Fit(
            self.moments + other.moments,
            self.error + other.error,
            self.active + other.active,
            self.fired | other.fired,
        )

    def measures(self) -> dict[str, float]:
        """Active features per token, explained variance (NaN where nothing varies), share that never fired."""
        deviation = self.moments.squares
        return {
            "L0": self.active / self.moments.count,
            "explained_variance": 1 - self.error / deviation if deviation > 0 else float("nan"),
            "dead_share": float((~self.fired).double().mean()),
        }


def fit_of(
    dictionary: Dictionary,
    model: Model,
    selection: Selection,
    *,
    batch_size: int = BATCH_SIZE,
    norms: Norms | None = None,
) -> Fit:
    """The fit of `dictionary` to `model` at the selected tokens, in one pass, in which `norms` are taken.

    No activation outlives its batch; those beyond the dictionary's limit do not count. InputError when none is within.
    """
    found: Fit | None = None
    blocks = stream(model, selection, hooks=dictionary.hook, batch_size=batch_size)
    for block in blocks if norms is None else norms.watched(blocks):
        for h in block.values[dictionary.hook].flatten(1).split(dictionary.rows_at_once()):
            within = h[~dictionary.beyond(h)]
            if len(within):
                part = Fit.of(within, *dictionary.split(within))
                found = part if found is None else found + part
    if found is None:
        raise InputError(
            f"every token at {selection.name!r} has a norm beyond {dictionary.limit:.4g} in {model.name}, the limit of "
            f"dictionary {dictionary.label}; choose other positions, or '{selection.name}{KEEPING}'"
        )
    return found


def _limited(
    dictionary: Dictionary, model: Any, prompts: Prompts | Encoded, positions: str, batch_size: int
) -> Dictionary:
    """The dictionary with the limit that is asked for, its own or else that of the model's norms."""
    if positions.endswith(KEEPING):
        return replace(dictionary, limit=math.inf)
    if math.isfinite(dictionary.limit):
        return dictionary
    dictionary.check(model)
    norms, selection = Norms(model.encode(prompts)), Selection.of(model, prompts, positions)
    for block in stream(model, selection, hooks=dictionary.hook, batch_size=batch_size):
        norms.add(block)
    whole = norms.by_hook[dictionary.hook]
    return replace(dictionary, limit=norm_limit(whole[whole.isfinite()]) or math.inf)


def _line(
    dictionary: Dictionary, model: Any, prompts: Prompts | Encoded, positions: str, batch_size: int
) -> dict[str, Any]:
    """Everything about one member."""
    dictionary.check(model)
    inputs = Selection.of(model, prompts, "answer").inputs
    norms, selection = Norms(inputs), Selection.of(model, inputs, positions)
    found = fit_of(dictionary, model, selection, batch_size=batch_size, norms=norms)
    outliers = Outliers(inputs, norms.by_hook[dictionary.hook], dictionary.limit, dictionary.hook)

    def ablate(h: Tensor) -> Tensor:
        flat = h.flatten(2)
        return torch.where(dictionary.beyond(flat)[..., None], flat, found.moments.mean.to(flat)).view(
            h.shape
        )

    def loss(edit: AbstractContextManager[Any]) -> float:
        with edit:
            return answer_loss(model, inputs, batch_size=batch_size)

    plain, spliced = loss(nullcontext()), loss(reconstructed(model, dictionary))
    ablated = loss(model.hooks({dictionary.hook: ablate}))
    recovered = (ablated - spliced) / (ablated - plain) if ablated > plain else float("nan")
    losses = {"loss": plain, "loss_spliced": spliced, "loss_ablated": ablated, "loss_recovered": recovered}
    return {**found.measures(), **losses, "outliers": outliers}


def _left_out(found: Mapping[str, Outliers], members: Mapping[str, Any]) -> tuple[str, ...]:
    """Which tokens were left out, once where several members leave out the same."""
    told: dict[bytes, str] = {}
    for name, each in found.items():
        if each.beyond.any():
            said = f"{name}: {each.told(members[name].tokenizer)}; splice and ablation keep them as they are"
            told.setdefault(each.beyond.numpy().tobytes(), said)
    return tuple(told.values())


def _belonging(
    dictionary: Dictionary, members: Mapping[str, Model] | Lineage
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The members to judge; of a lineage those that descend from the dictionary's weights, the others named."""
    if not isinstance(members, Lineage):
        if not members:
            raise InputError("no member to judge the dictionary by; pass at least one model under its name")
        return dict(members), ()
    chosen = {
        role: model for role, model in members.members.items() if lineage_root(model) == dictionary.lineage
    }
    others = [role for role in members.members if role not in chosen]
    if not chosen:
        dictionary.check(members.base)  # says which weights it belongs to
    left_out = f"left out, another initialisation: {', '.join(others)}"
    return chosen, (left_out,) if others else ()


def _reasons(line: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """Why a member's features do not speak for it; empty when they do."""
    reasons, label = [], f"the dictionary does not reconstruct {line['member']}"
    own, reference = line["explained_variance"], first["explained_variance"]
    if not own >= reference - EXPLAINED_GAP:
        reasons.append(f"{label}: explained variance {own:.3f}, {reference:.3f} in {first['member']}")
    if line["loss_recovered"] < RECOVERED:
        reasons.append(f"{label}: {line['loss_recovered']:.3f} of the loss recovered, below {RECOVERED}")
    return reasons


def _undefined(frame: pd.DataFrame) -> tuple[str, ...]:
    names = frame["member"][frame["loss_recovered"].isna()].tolist()
    if not names:
        return ()
    return (f"ablating the hook does not raise the loss of {', '.join(names)}, so no loss can be recovered",)


def _draw(result: figures.Result) -> go.Figure:
    """Explained variance and loss recovered of every member."""
    shares = {"explained_variance": "explained variance", "loss_recovered": "loss recovered"}
    frame = result.frame.rename(columns=shares).melt(
        id_vars="member", value_vars=list(shares.values()), var_name="measure", value_name="share"
    )
    frame["member, measure"] = frame["member"] + ", " + frame["measure"]
    order = frame.sort_values("member", kind="stable", key=lambda names: names.map(_position(result.frame)))
    return figures.bars(
        order, x="share", y="member, measure", colour="member", title=result.label, unit="share"
    )


def _position(frame: pd.DataFrame) -> dict[str, int]:
    return {name: index for index, name in enumerate(frame["member"])}
