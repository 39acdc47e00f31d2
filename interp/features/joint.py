"""One dictionary of two models: an autoencoder of [h_base / s_base; h_member / s_member] on identical tokens.

s is the root mean square norm; decoder rows are multiplied by it again, so what follows is in the models' own units.
Relative norm = |d^member| / (|d^base| + |d^member|). Latent scaling (Minder et al., arXiv 2504.02922), y^m_jt being
h^m_t less the bias and what the other features make of it, and d_j the member's half of row j:
    β^m_j = argmin_β Σ_t |β f_jt d_j − y^m_jt|² = Σ_t f_jt <d_j, y^m_jt> / (|d_j|² Σ_t f_jt²)
and ν_j = β^base_j / β^member_j.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import figures
from interp.activations.recording import BATCH_SIZE, Selection, moments, record, stream
from interp.activations.shifts import own_start, shared_inputs
from interp.core import storage
from interp.core.doors import door
from interp.core.runs import Cache, InputError, atomic_folder
from interp.features.dictionary import Dictionary
from interp.features.quality import Fit
from interp.features.reading import LIVE
from interp.features.sae import SAERecipe, trained
from interp.features.sae_files import read_sae, save_sae
from interp.features.stream import Stream, selected_stream, token_width
from interp.models.precision import exactly
from interp.models.seam import check_hooks, lineage_root
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model
    from interp.prompts.text import Prompts

FORMAT = "interp.joint/1"
RECORD, TABLE = "joint.json", "joint.safetensors"
UNIT = "activation norm per unit of the feature; ratios"
RECIPE = SAERecipe()
CAVEATS = (
    "sparsity is weighed by the norm of the whole decoder row, not by the sum of its halves' norms as in a crosscoder",
    "relative norm near 1 and nu near 1: shared after all, the base's half of the row shrank",
    "relative norm near 1, nu near 0 and nu_total near 1: other features may say the same of the base",
)


@dataclass(frozen=True, eq=False, repr=False)
class JointDictionary(figures.Shown):
    """A dictionary of the concatenated activations of a base and a member at one hook, and what its features are.

    `models` and `fingerprints` are those of base and member, `norms` the root mean square norms that their activations
    were divided by. `frame` has one line a feature: norm_base, norm_teacher, relative_norm (0 base only, ½ shared, 1
    teacher only), rate, live, beta_base, beta_teacher, nu, and nu_total, in which only the bias is taken from the
    activations; "teacher" stands for the member. NaN where a feature never fires or the member's half of its row is
    zero.
    """

    dictionary: Dictionary
    models: tuple[str, str]
    fingerprints: tuple[str, str]
    norms: tuple[float, float]
    frame: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def halves(self) -> tuple[Float[Tensor, "feature d_in"], Float[Tensor, "feature d_in"]]:
        """The decoder rows of base and of member: what a unit of each feature adds to that model's activation."""
        base, member = self.dictionary.decoder.chunk(2, dim=1)
        return base * self.norms[0], member * self.norms[1]

    def sides(self, both: Float[Tensor, "token both"]) -> tuple[Tensor, Tensor]:
        """Concatenated activations as those of base and of member, in their own units."""
        base, member = both.chunk(2, dim=-1)
        return base * self.norms[0], member * self.norms[1]

    @property
    def label(self) -> str:
        """The models and the hook."""
        return f"joint dictionary of {self.models[0]} and {self.models[1]} at {self.dictionary.hook}"

    def figure(self) -> go.Figure:
        """Relative norm against ν of the live features."""
        return _draw(self)

    def save(self, folder: str | Path) -> Path:
        """Write the folder `load_joint` reads, whole or not at all.

        Raises InputError for a folder that holds something else.
        """
        path = Path(folder)
        if path.exists() and any(path.iterdir()) and not (path / RECORD).is_file():
            raise InputError(f"{path} exists and is no joint dictionary; choose a new or an empty folder")
        facts = {
            "format": FORMAT,
            "hook": self.dictionary.hook,
            "label": self.dictionary.label,
            "lineage": self.dictionary.lineage,
            "models": self.models,
            "fingerprints": self.fingerprints,
            "norms": self.norms,
            "notes": self.notes,
        }
        with atomic_folder(path) as fresh:
            save_sae(self.dictionary, fresh / "sae")
            columns = self.frame.drop(columns=["feature", "live"])
            values = {name: torch.from_numpy(columns[name].to_numpy(np.float32).copy()) for name in columns}
            storage.write_tensors(fresh / TABLE, values, {"format": FORMAT})
            (fresh / RECORD).write_text(json.dumps(facts, indent=1))
        return path

    def __repr__(self) -> str:
        return f"JointDictionary({self.models[0]} and {self.models[1]}: {self.dictionary!r})"


def load_joint(folder: str | Path) -> JointDictionary:
    """The joint dictionary `save` wrote; InputError for a folder that is none."""
    path = Path(folder)
    try:
        facts = json.loads((path / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} holds no readable {RECORD}; pass a folder that JointDictionary.save wrote"
        ) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"{path / RECORD} is not of format {FORMAT}; train the joint dictionary again")
    values, _ = storage.read_tensors(path / TABLE)
    dictionary = Dictionary(read_sae(path / "sae"), facts["hook"], facts["label"], facts["lineage"])
    pairs = {name: tuple(facts[name]) for name in ("models", "fingerprints", "norms")}
    return JointDictionary(dictionary, frame=_table(values), notes=tuple(facts["notes"]), **pairs)


@door
@exactly
def train_joint(
    base: Model,
    member: Model,
    prompts: Prompts | Encoded,
    *,
    hook: str,
    recipe: SAERecipe = RECIPE,
    positions: str = "all",
    cache: Cache | None = None,
) -> JointDictionary:
    """Train one dictionary on the activations of base and member together at `hook`, and measure it on the same tokens.

    `base` is what `member` started from; both read the same tokens, without a system message. The recipe's width
    defaults to 8 × that of the concatenation. InputError as for `shift` and `train_sae`, and for another base.
    """
    start = own_start(member)
    if start.fingerprint != base.fingerprint:
        raise InputError(
            f"{member.name} started from {start.name} ({start.fingerprint}), not from {base.name} "
            f"({base.fingerprint}); pass the model it started from"
        )
    check_hooks(member, (hook,))
    inputs = shared_inputs(member, base, prompts)
    norms = (
        _norm(base, inputs, hook=hook, positions=positions),
        _norm(member, inputs, hook=hook, positions=positions),
    )
    facts = {
        "hook_name": hook,
        "model_name": f"{base.name} and {member.name}",
        "interp_joint": f"{base.fingerprint} {member.fingerprint}",
        "interp_lineage": lineage_root(member),
        "interp_inputs": inputs.fingerprint,
        "interp_positions": positions,
    }
    joined = _stream(base, member, inputs, hook, positions, norms, recipe)
    label = f"joint {recipe.architecture} of {base.name} and {member.name}"
    dictionary = trained(joined, hook=hook, label=label, recipe=recipe, facts=facts, cache=cache)
    pair = (base.fingerprint, member.fingerprint)
    joint = JointDictionary(dictionary, (base.name, member.name), pair, norms, pd.DataFrame())
    return measure_joint(joint, member, inputs, positions=positions)


@exactly
def measure_joint(
    joint: JointDictionary, member: Model, prompts: Prompts | Encoded, *, positions: str = "all"
) -> JointDictionary:
    """The same dictionary with rates and latent scaling measured on these rows; InputError for other models."""
    start = own_start(member)
    if (start.fingerprint, member.fingerprint) != joint.fingerprints:
        raise InputError(
            f"the joint dictionary belongs to {' and '.join(joint.models)} ({' '.join(joint.fingerprints)}), not to "
            f"{start.name} and {member.name} ({start.fingerprint} {member.fingerprint}); train one on them"
        )
    inputs = shared_inputs(member, start, prompts)
    selection = Selection.of(member, inputs, positions)
    sums: Sums | None = None
    for h in _pairs(start, member, selection, joint):
        for part in h.split(joint.dictionary.rows_at_once()):
            found = Sums.of(joint, part)
            sums = found if sums is None else sums + found
    assert sums is not None  # a selection holds at least one token
    explained = [half.measures()["explained_variance"] for half in sums.fits]
    notes = (
        f"measured on {sums.count} tokens {positions!r} of {selection.inputs.label}",
        *(
            f"explained variance {share:.3f} in {name}"
            for name, share in zip(joint.models, explained, strict=True)
        ),
        *CAVEATS,
    )
    return replace(joint, frame=_table(_measures(joint, sums)), notes=notes)


@dataclass(frozen=True, eq=False)
class Sums:
    """Running sums by feature: firings, f², f <d, e^m> and f <d, h^m − b^m> of base and member; and each half's fit."""

    count: int
    fired: Float[Tensor, "feature"]
    squares: Float[Tensor, "feature"]
    errors: tuple[Tensor, Tensor]
    totals: tuple[Tensor, Tensor]
    fits: tuple[Fit, Fit]

    @classmethod
    def of(cls, joint: JointDictionary, h: Float[Tensor, "token both"]) -> Sums:
        """The sums over one block of concatenated activations."""
        features, rebuilt = joint.dictionary.split(h)
        bias = joint.dictionary.sae.b_dec.detach().to(h)
        direction = joint.halves[1].T.to(h)

        def along(values: Tensor) -> tuple[Tensor, Tensor]:
            base, member = ((side @ direction * features).double().sum(0) for side in joint.sides(values))
            return base, member

        fits = [
            Fit.of(own, features, made)
            for own, made in zip(joint.sides(h), joint.sides(rebuilt), strict=True)
        ]
        return cls(
            len(h),
            (features > 0).double().sum(0),
            features.double().square().sum(0),
            along(h - rebuilt),
            along(h - bias),
            (fits[0], fits[1]),
        )

    def __add__(self, other: Sums) -> Sums:
        def both(name: str) -> tuple[Any, Any]:
            (a, b), (c, d) = getattr(self, name), getattr(other, name)
            return a + c, b + d

        return Sums(
            self.count + other.count,
            self.fired + other.fired,
            self.squares + other.squares,
            both("errors"),
            both("totals"),
            both("fits"),
        )


def _measures(joint: JointDictionary, sums: Sums) -> dict[str, Tensor]:
    """The columns of the table: f_j d^m_j is added to the error, so β = Σ f <d, e> / (|d|² Σ f²) + <d, d^m> / |d|²."""
    base, member = (half.double() for half in joint.halves)
    norms = base.norm(dim=1), member.norm(dim=1)
    power = norms[1].square() * sums.squares
    own = [(half * member).sum(1) / norms[1].square() for half in (base, member)]
    beta = [error / power + shared for error, shared in zip(sums.errors, own, strict=True)]
    defined = power > 0
    return {
        "norm_base": norms[0],
        "norm_teacher": norms[1],
        "relative_norm": norms[1] / (norms[0] + norms[1]),
        "rate": sums.fired / sums.count,
        "beta_base": beta[0].where(defined, torch.nan),
        "beta_teacher": beta[1].where(defined, torch.nan),
        "nu": (beta[0] / beta[1]).where(defined, torch.nan),
        "nu_total": (sums.totals[0] / sums.totals[1]).where(defined, torch.nan),
    }


ORDER = (
    "norm_base",
    "norm_teacher",
    "relative_norm",
    "rate",
    "live",
    "beta_base",
    "beta_teacher",
    "nu",
    "nu_total",
)


def _table(measures: dict[str, Tensor]) -> pd.DataFrame:
    columns = {name: values.numpy().astype(np.float32) for name, values in measures.items()}
    features, live = np.arange(len(columns["rate"])), columns["rate"] >= LIVE
    return pd.DataFrame({"feature": features, "live": live, **columns}, columns=["feature", *ORDER])


def _norm(model: Model, inputs: Encoded, *, hook: str, positions: str) -> float:
    """√(mean |h|²) over the tokens named."""
    found = moments(model, inputs, hooks=hook, positions=positions)[hook]
    energy = float(found.covariance.trace()) * (found.count - 1) / found.count + float(
        found.mean.square().sum()
    )
    if energy <= 0:
        raise InputError(f"{model.name} is zero at {hook} on every token; choose another hook")
    return energy**0.5


def _stream(
    base: Model,
    member: Model,
    inputs: Encoded,
    hook: str,
    positions: str,
    norms: tuple[float, float],
    recipe: SAERecipe,
) -> Stream:
    """Concatenated activations to train on, in bounded memory."""

    def read(rows: Encoded) -> Tensor:
        both = [record(model, rows, hooks=hook, positions=positions).flat(hook) for model in (base, member)]
        return torch.cat([h.flatten(1) / norm for h, norm in zip(both, norms, strict=True)], dim=1)

    selection, width = Selection.of(member, inputs, positions), 2 * token_width(member, hook)
    return selected_stream(read, selection, width=width, batch_size=recipe.batch_size, seed=recipe.seed)


def _pairs(
    start: Model, member: Model, selection: Selection, joint: JointDictionary
) -> Iterator[Float[Tensor, "token both"]]:
    """Concatenated activations, a batch of rows at a time."""
    hook = joint.dictionary.hook
    read = (stream(model, selection, hooks=hook, batch_size=BATCH_SIZE) for model in (start, member))
    for blocks in zip(*read, strict=True):
        both = zip(blocks, joint.norms, strict=True)
        yield torch.cat([block.values[hook].flatten(1) / norm for block, norm in both], dim=1)


def _draw(result: JointDictionary) -> go.Figure:
    live = result.frame[result.frame["live"]]
    shown = live.assign(
        name=[
            f"feature {feature}, rate {rate:.3g}"
            for feature, rate in zip(live["feature"], live["rate"], strict=True)
        ]
    )
    return figures.scatter(
        shown,
        x="relative_norm",
        y="nu",
        text="name",
        title=result.label,
        units=("0 base only, 1 teacher only", "1 as much in the base"),
    )
