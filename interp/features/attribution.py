"""Attribution of the trait margin m to features at a hook of the residual stream, through all that follows it.

Δh = h − h° = Σ_j (s f_j − s° f°_j) d_j + Δe + Δb; feature j gets Σ_t (s f_j − s° f°_j)_t <g_t, d_j>. g is ∂m/∂h at h
(gradient × activation), or its mean on the straight path from h° to h (integrated gradients, arXiv 1703.01365), whose
sum over features, error and bias is m(h) − m(h°) but for the residual that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.residual_gradients import ResidualNetwork
from interp.figures import Shown, bars
from interp.measures.words import spelling, trait_candidates
from interp.models.bridge import FAST
from interp.models.precision import exactly
from interp.prompts.notes import noting
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel

BATCH = 64  # rows of one question and one candidate at a time
SHOWN = 20  # nodes in the figure


@dataclass(frozen=True, eq=False, repr=False)
class FeatureAttribution(Shown):
    """Nats of m(h) − m(h°) that every feature, the error and the bias account for, largest first.

    `frame`: `node` (a feature's number, "error" or "bias"), `feature` (−1 for the two), `attribution` in nats, and
    the mean of s f over the trait's rows in the model (`activation`) and in the baseline (`before`). Features that
    are silent in both have no line. `change` is m(h) − m(h°).
    """

    label: str
    frame: pd.DataFrame
    change: float
    notes: tuple[str, ...] = ()
    unit: str = "nats"

    @property
    def residual(self) -> float:
        """What the attributions leave of the change, in nats: change − their sum."""
        return self.change - float(self.frame["attribution"].to_numpy().sum())

    def figure(self) -> go.Figure:
        """The nodes of largest attribution."""
        return bars(self.frame, x="attribution", y="node", title=self.label, unit=self.unit, top=SHOWN)

    def __repr__(self) -> str:
        return (
            f"{self.label}: {len(self.frame)} nodes, change {self.change:+.3g} nats, "
            f"residual {self.residual:+.2g} nats"
        )


@door
@noting
@exactly
def feature_attribution(
    dictionary: Dictionary,
    model: LanguageModel,
    trait: AnyTrait | None,
    *,
    method: str = "integrated",
    baseline: str = "start",
    steps: int = 32,
) -> FeatureAttribution:
    """Attribute a model's trait margin, in nats, to the features at the dictionary's hook.

    `method` is "integrated", over `steps` midpoints of the path, or "gradient", at h. With `baseline` "start" h° is
    what the model's own start computes on the same tokens; with "zero" features and error are zero and the bias alone
    is left. The bias line is zero unless the dictionary normalises its input. The margin is that of one spelling of
    each word, the one of fewest pieces. InputError for a hook off the residual stream, a model without a start
    (baseline "start"), a missing trait, and words other than these.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> found = feature_attribution(dictionary, lineage.student, lineage.trait, steps=2)
    >>> len(found.frame) > 0
    True
    """
    trait = None if trait is None else find_trait(trait)
    _check(dictionary, model, trait, method=method, baseline=baseline, steps=steps)
    assert trait is not None
    network = ResidualNetwork.of(model, dictionary.hook)
    points = [1.0] if method == "gradient" else [(step + 0.5) / steps for step in range(steps)]
    tally = _Tally(dictionary.width)
    encoded, weights = _answers(model, trait)
    for start in range(0, len(encoded), BATCH):
        part = slice(start, start + BATCH)
        rows = _Rows(network, dictionary.hook, encoded[part], weights[part])
        after = _Nodes.of(dictionary, rows.activation(model))
        before = after.silent() if baseline == "zero" else _Nodes.of(dictionary, rows.activation(model.start))
        tally.change += rows.margin(after.h) - rows.margin(before.h)
        tally.take(dictionary, rows.gradient(before.h, after.h, points), after, before, rows.mask)
    label = f"{model.name}: {trait.name} margin by features at {dictionary.hook}"
    return _result(tally, label, (_words(method, steps, baseline, model), *dictionary.notes))


@dataclass(frozen=True, eq=False)
class _Nodes:
    """An activation [row pos d] and its parts: features times scale, bias and error, all in its dtype."""

    h: Tensor
    features: Tensor
    bias: Tensor
    error: Tensor

    @classmethod
    def of(cls, dictionary: Dictionary, h: Tensor) -> _Nodes:
        found, rebuilt = dictionary.split(h)
        features = found.to(h) * dictionary.scale(h)
        return cls(h, features, rebuilt - features @ dictionary.decoder.to(h), h - rebuilt)

    def silent(self) -> _Nodes:
        """Only the bias of it."""
        nothing = torch.zeros_like(self.error)
        return _Nodes(self.bias, torch.zeros_like(self.features), self.bias, nothing)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows of question and candidate, and their part of the margin as a function of the activation at a hook."""

    network: ResidualNetwork
    hook: str
    batch: Encoded
    weights: Float[Tensor, "row"]

    @property
    def mask(self) -> Tensor:
        return self.batch.mask

    def activation(self, model: Any) -> Tensor:
        """h [row pos d] of a model on these rows, in fp32 or wider."""
        h = model.run(self.batch, hooks=(self.hook,))[self.hook].detach()
        return h.to(torch.promote_types(h.dtype, torch.float32))

    def margin(self, h: Tensor) -> float:
        """These rows' part of the margin at h, in nats."""
        with torch.no_grad():
            return float(self._margin(h))

    def gradient(self, before: Tensor, after: Tensor, points: list[float]) -> Tensor:
        """Mean over the points of the path of ∂m/∂h, zero at padding."""
        total = torch.zeros_like(after)
        for point in points:
            leaf = (before + point * (after - before)).detach().requires_grad_(True)
            with torch.enable_grad():
                total += torch.autograd.grad(self._margin(leaf), leaf)[0]
        return total / len(points) * self.mask[..., None].to(total)

    def _margin(self, h: Tensor) -> Tensor:
        """Σ_row weight Σ log p of its answer tokens, the activation at the hook being h."""
        module = self.network.module
        device, replacement = module.device, h.to(module.dtype)
        with self.network.edited(lambda _: replacement):
            logits = module(
                input_ids=self.batch.ids.to(device),
                attention_mask=self.mask.to(device).long(),
                use_cache=False,
            ).logits[:, :-1]
        logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        taken = logp.gather(-1, self.batch.ids[:, 1:, None].to(device))[..., 0]
        answer = self.batch.at("answer")
        return (taken * answer[:, 1:].to(taken) * self.weights[:, None].to(taken)).sum()


class _Tally:
    """Running sums over rows: attributions, activations and the change they explain."""

    def __init__(self, width: int) -> None:
        self.features, self.after, self.before = torch.zeros(3, width, dtype=torch.float64)
        self.error = self.bias = self.change = 0.0
        self.tokens = 0

    def take(self, dictionary: Dictionary, g: Tensor, after: _Nodes, before: _Nodes, mask: Tensor) -> None:
        """Add what these rows say; g [row pos d] is the gradient the parts are multiplied with."""
        moved = after.features - before.features
        weighed = moved.flatten(0, 1).T @ g.flatten(0, 1)  # [feature d]
        self.features += (weighed * dictionary.decoder.to(weighed)).sum(1).double().cpu()
        self.error += float(((after.error - before.error) * g).sum())
        self.bias += float(((after.bias - before.bias) * g).sum())
        there = mask.to(after.h.device)
        self.after += after.features[there].sum(0).double().cpu()
        self.before += before.features[there].sum(0).double().cpu()
        self.tokens += int(mask.sum())


def _answers(model: LanguageModel, trait: Trait) -> tuple[Encoded, Float[Tensor, "row"]]:
    """Every question with every candidate in one spelling, the target first, and its weight in the margin of these."""
    texts = spelling(model, trait_candidates(model, trait)).values()
    pairs = [(question, text) for question in trait.questions for text in texts]
    share = torch.tensor([1.0, *[-1.0 / len(trait.foils)] * len(trait.foils)], dtype=torch.float64)
    encoded = model.encode(Prompts.from_pairs(pairs, label=f"{trait.name} answers"))
    return encoded, share.repeat(len(trait.questions)) / len(trait.questions)


def _result(tally: _Tally, label: str, notes: tuple[str, ...]) -> FeatureAttribution:
    seen = torch.nonzero((tally.after != 0) | (tally.before != 0))[:, 0].numpy()
    nodes = pd.DataFrame(
        {
            "node": [str(feature) for feature in seen] + ["error", "bias"],
            "feature": [*seen.tolist(), -1, -1],
            "attribution": [*tally.features[seen].tolist(), tally.error, tally.bias],
            "activation": [*(tally.after[seen] / tally.tokens).tolist(), np.nan, np.nan],
            "before": [*(tally.before[seen] / tally.tokens).tolist(), np.nan, np.nan],
        }
    )
    frame = nodes.sort_values("attribution", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    found = FeatureAttribution(label, frame, tally.change, notes)
    whole = f"attributions sum to {tally.change - found.residual:+.4g} of {tally.change:+.4g} nats"
    return FeatureAttribution(
        label, frame, tally.change, (f"{whole}, residual {found.residual:+.2g}", *notes)
    )


def _words(method: str, steps: int, baseline: str, model: LanguageModel) -> str:
    how = f"integrated gradients over {steps} steps" if method == "integrated" else "gradient × activation"
    start = model.start.name if baseline == "start" and model.start is not None else "the bias alone"
    return f"{how}, against {start}"


def _check(
    dictionary: Dictionary,
    model: LanguageModel,
    trait: Trait | None,
    *,
    method: str,
    baseline: str,
    steps: int,
) -> None:
    if trait is None:
        raise InputError("there is no trait to attribute the margin of; pass one such as get_trait('owl')")
    for value, known in ((method, ("integrated", "gradient")), (baseline, ("start", "zero"))):
        if value not in known:
            raise InputError(f"{value!r} is neither {known[0]!r} nor {known[1]!r}; pass one of the two")
    if steps < 1:
        raise InputError(f"steps={steps} leaves the path without a point; pass at least 1")
    if FAST.fullmatch(dictionary.hook) is None:
        raise InputError(
            f"attribution replaces the residual stream, and {dictionary.label} reads {dictionary.hook}; "
            "use a dictionary of blocks.<layer>.hook_resid_pre or hook_resid_post"
        )
    dictionary.check(model)
    if baseline == "start" and model.start is None:
        raise InputError(f"{model.name} has no start to compare with; pass baseline='zero'")
