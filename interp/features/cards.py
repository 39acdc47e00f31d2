"""A feature's card: where it fires, which logits its decoder row raises and lowers, and matched controls beside it.

Direct path, the norm's scale left out: Δlogit = centre(d_j) · w @ W_U less its mean over the vocabulary, w the final
norm's weight; an activation f_j at a residual stream of scale s moves the logits by f_j Δlogit / s.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp import figures
from interp.activations.interventions import D_MODEL_HOOKS
from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.reading import TokenReading, matched_features, read_tokens, statistics_of
from interp.models.precision import exactly
from interp.models.vocabulary import token_texts
from interp.prompts.notes import noting
from interp.prompts.tokens import Encoded, token_pieces

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.seam import Model
    from interp.prompts.text import Prompts

UNIT = "logits per unit of the feature, at norm scale 1"
CONTROLS = 5
EXTREMES = 10  # tokens shown at either end
STYLE = (
    ".feature-card{font:14px/1.45 Helvetica,Arial,sans-serif;color:#222;max-width:60em}"
    ".feature-card h3,.feature-card h4{margin:.7em 0 .2em}"
    ".feature-card table{border-collapse:collapse;font-size:13px;margin-right:2em}"
    ".feature-card th,.feature-card td{padding:1px 8px;text-align:right;border-bottom:1px solid #e6e6e6}"
    ".feature-card .side{display:flex;flex-wrap:wrap}"
    ".feature-card .text{font-family:monospace;white-space:pre-wrap;margin:2px 0}"
    ".feature-card .text span{border-radius:2px;padding:1px 0}"
    ".feature-card .peak{outline:1px solid #222}"
    ".feature-card small{color:#666}"
)


@dataclass(frozen=True)
class Context:
    """Tokens around a peak, the feature's activation at each, and which of them the peak is."""

    pieces: tuple[str, ...]
    values: tuple[float, ...]
    peak: int


@dataclass(frozen=True, eq=False, repr=False)
class FeatureCard:
    """One feature of `dictionary` in a model.

    `frame`: row, position, token, activation of the strongest token of each row, strongest row first, `contexts` beside
    it. `logits`: token, token_id, effect over the whole vocabulary, largest rise first. `controls`: the feature and its
    matched controls with rate, mean, decoder_norm and live. `rate`, `mean` and `maximum` are over the tokens read.
    """

    feature: int
    dictionary: str
    model: str
    frame: pd.DataFrame
    contexts: tuple[Context, ...] = field(repr=False)
    logits: pd.DataFrame
    controls: pd.DataFrame
    rate: float
    mean: float
    maximum: float
    norm: float
    link: str
    notes: tuple[str, ...]

    def figure(self) -> go.Figure:
        """Bars of the tokens raised and lowered most; ValueError when the hook has no direct path to the logits."""
        if self.logits.empty:
            raise ValueError(f"{self!r} has no logit effects; read .frame instead")
        shown = self.extremes()
        entries = [
            f"{text!r} ({index})" for text, index in zip(shown["token"], shown["token_id"], strict=True)
        ]
        title = f"feature {self.feature} of {self.dictionary}: direct effect on the logits"
        return figures.bars(shown.assign(entry=entries), x="effect", y="entry", title=title, unit=UNIT)

    def extremes(self) -> pd.DataFrame:
        """The tokens raised most and lowered most."""
        if len(self.logits) <= 2 * EXTREMES:
            return self.logits
        return pd.concat([self.logits.head(EXTREMES), self.logits.tail(EXTREMES)])

    def to_html(self) -> str:
        """The card as one escaped block with its own style and no script."""
        name = f"feature {self.feature} of {self.dictionary} in {self.model}"
        numbers = (
            f"rate {self.rate:.3g} · mean {self.mean:.3g} · maximum {self.maximum:.3g} · norm {self.norm:.3g}"
        )
        link = f' · <a href="{html.escape(self.link)}">Neuronpedia</a>' if self.link else ""
        texts = "".join(map(_context_html, self.contexts, self.frame["row"], self.frame["position"]))
        notes = "".join(f"<div><small>{html.escape(note)}</small></div>" for note in self.notes)
        return (
            f'<section class="feature-card"><style>{STYLE}</style><h3>{html.escape(name)}</h3>'
            f"<div>{numbers}{link}</div><h4>Strongest activations</h4>{texts}"
            f"{self._logits_html()}<h4>The feature and its matched controls</h4>{_table(self.controls)}"
            f"{notes}</section>"
        )

    _repr_html_ = to_html

    def _logits_html(self) -> str:
        if self.logits.empty:
            return ""
        raised, lowered = self.logits.head(EXTREMES), self.logits.tail(EXTREMES).iloc[::-1]
        return (
            f'<h4>Direct effect on the logits</h4><div class="side"><div>raised{_table(raised)}</div>'
            f"<div>lowered{_table(lowered)}</div></div>"
        )

    def __repr__(self) -> str:
        return (
            f"FeatureCard({self.feature} of {self.dictionary} in {self.model}: rate {self.rate:.3g}, "
            f"maximum {self.maximum:.3g}, {len(self.frame)} rows)"
        )


@door
@noting
@exactly
def feature_card(
    dictionary: Dictionary,
    model: Model,
    prompts: Prompts | Encoded,
    feature: int,
    *,
    positions: str = "all",
    statistics: pd.DataFrame | None = None,
    top: int = 10,
    context: int = 8,
) -> FeatureCard:
    """The card of one feature: the strongest of the tokens named `positions` in each of the `top` rows, with `context`
    tokens on either side, its direct effect on every logit, and controls matched by `statistics` (a frame of
    `feature_statistics`; by default of the tokens named).

    InputError for a feature that does not exist or fires at none of these tokens, and where dictionary and model do
    not belong together.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> dictionary = interp.joined.default_dictionary(lineage)
    >>> statistics = interp.features.feature_statistics(dictionary, lineage.base, lineage.numbers, positions="all")
    >>> busiest = int(statistics["rate"].idxmax())
    >>> feature_card(dictionary, lineage.base, lineage.numbers, busiest).feature == busiest
    True
    """
    return feature_cards(
        dictionary,
        model,
        prompts,
        [feature],
        positions=positions,
        statistics=statistics,
        top=top,
        context=context,
    )[0]


@exactly
def feature_cards(
    dictionary: Dictionary,
    model: Model,
    prompts: Prompts | Encoded,
    features: Sequence[int],
    *,
    positions: str = "all",
    statistics: pd.DataFrame | None = None,
    top: int = 10,
    context: int = 8,
) -> list[FeatureCard]:
    """`feature_card` of several features from one reading of the activations.

    Raises InputError as `feature_card` does, and for cards without rows.
    """
    dictionary.check_features(features)
    if top < 1 or context < 0:
        raise InputError(
            f"a card of {top} rows and {context} tokens on either side holds nothing; give top=10"
        )
    firing = _firing(dictionary, model, prompts, features, positions)
    table = statistics_of(dictionary, firing.named()) if statistics is None else statistics
    notes = (
        *dictionary.notes,
        f"{int(firing.chosen.sum())} tokens {positions!r} read",
        *_caveats(dictionary),
    )
    return [
        _card(dictionary, model, firing, place, table, (top, context), notes)
        for place in range(len(features))
    ]


@exactly
def logit_effects(dictionary: Dictionary, model: Model, feature: int) -> pd.DataFrame:
    """token, token_id and effect of one unit of a feature on every logit, minus the mean effect, largest first.

    Direct path: the decoder row through the final norm's weight and W_U, in logits at norm scale 1. Empty for a hook
    that does not write into the residual stream.
    """
    direction = _written(dictionary, model, feature)
    if direction is None:
        return pd.DataFrame({"token": [], "token_id": [], "effect": []})
    head = model.unembedding()
    W_U = head.W_U.float().cpu()
    effect = (head.centred(direction) * head.weight.float().cpu()) @ W_U
    effect = (effect - effect.mean()).numpy()
    frame = pd.DataFrame(
        {"token": token_texts(model, len(effect)), "token_id": np.arange(len(effect)), "effect": effect}
    )
    return frame.sort_values("effect", ascending=False, kind="stable", ignore_index=True)


@dataclass(frozen=True, eq=False)
class Firing:
    """Every token of the rows, the activations of some features there, and which tokens were named."""

    inputs: Any
    reading: TokenReading
    features: tuple[int, ...]
    activations: Float[Tensor, "token wanted"]
    chosen: Bool[Tensor, "token"]

    def named(self) -> TokenReading:
        """The reading at the named tokens alone."""
        whole, kept = self.reading, self.chosen
        return TokenReading(whole.values[kept], whole.rows[kept], whole.columns[kept], whole.n_rows)


def _firing(
    dictionary: Dictionary, model: Any, prompts: Any, features: Sequence[int], positions: str
) -> Firing:
    dictionary.check(model)
    inputs = model.encode(prompts)
    reading = read_tokens(dictionary, model, inputs, positions="all")
    chosen = inputs.at(positions).cpu()[reading.rows, reading.columns]
    if not chosen.any():
        raise InputError(f"no row of {inputs.label!r} has a position {positions!r}; choose other positions")
    wanted = [int(feature) for feature in features]
    kept = [found[:, wanted] for _, found in reading.blocks(dictionary)]
    return Firing(inputs, reading, tuple(wanted), torch.cat(kept), chosen)


def _card(
    dictionary: Dictionary,
    model: Any,
    firing: Firing,
    place: int,
    statistics: pd.DataFrame,
    shown: tuple[int, int],
    notes: tuple[str, ...],
) -> FeatureCard:
    feature, values = firing.features[place], firing.activations[:, place]
    named = values[firing.chosen]
    if not (named > 0).any():
        raise InputError(
            f"feature {feature} of {dictionary.label} never fires on these rows ({len(named)} tokens); "
            "give other rows or a feature that is live here"
        )
    peaks = _peaks(firing, values, shown[0])
    frame, contexts = _tops(model, firing, values, peaks, shown[1])
    return FeatureCard(
        feature=feature,
        dictionary=dictionary.label,
        model=model.name,
        frame=frame,
        contexts=contexts,
        logits=logit_effects(dictionary, model, feature),
        controls=_controls(statistics, feature),
        rate=float((named > 0).float().mean()),
        mean=float(named.mean()),
        maximum=float(named.max()),
        norm=float(dictionary.decoder[feature].norm()),
        link=dictionary.link(feature),
        notes=notes,
    )


def _peaks(firing: Firing, values: Float[Tensor, "token"], top: int) -> list[int]:
    """The strongest named token of each row in which the feature fires, `top` of them, strongest first."""
    places = (firing.chosen & (values > 0)).nonzero()[:, 0]
    order = places[values[places].argsort(descending=True, stable=True)].tolist()
    rows = firing.reading.rows.tolist()
    first = {}
    for place in order:
        first.setdefault(rows[place], place)
        if len(first) == top:
            break
    return list(first.values())


def _tops(
    model: Any, firing: Firing, values: Float[Tensor, "token"], peaks: list[int], around: int
) -> tuple[pd.DataFrame, tuple[Context, ...]]:
    """The peaks as lines of a frame, and what stands around each."""
    lines, contexts = [], []
    for peak in peaks:
        row, position = int(firing.reading.rows[peak]), int(firing.reading.columns[peak])
        pieces = _pieces(model, firing.inputs, row)
        start, stop = max(0, position - around), min(len(pieces), position + around + 1)
        activations = values[peak - position + start : peak - position + stop]  # a row's tokens are all there
        contexts.append(Context(tuple(pieces[start:stop]), tuple(activations.tolist()), position - start))
        activation = float(values[peak])
        lines.append({"row": row, "position": position, "token": pieces[position], "activation": activation})
    return pd.DataFrame(lines), tuple(contexts)


def _pieces(model: Any, inputs: Encoded, row: int) -> list[str]:
    if model.tokenizer is None:
        return [str(token) for token in inputs.ids[row][inputs.mask[row]].tolist()]
    return token_pieces(model.tokenizer, inputs, row)


def _controls(statistics: pd.DataFrame, feature: int) -> pd.DataFrame:
    """The feature's own line of the statistics and those of its controls, as many as there are up to CONTROLS."""
    others = int((statistics["live"] & (statistics["feature"] != feature)).to_numpy().sum())
    count = min(CONTROLS, others)
    matched = sorted(matched_features(statistics, [feature], count=count)[0].tolist()) if count else []
    table = statistics.set_index("feature").loc[[feature, *matched]].reset_index()
    return table.assign(control=table["feature"] != feature)


def _written(dictionary: Dictionary, model: Model, feature: int) -> Float[Tensor, "d_model"] | None:
    """What one unit of a feature writes into the residual stream; None where the hook does not write there."""
    row, hook = dictionary.decoder[feature], dictionary.hook
    if hook.endswith("attn.hook_z"):
        W_O, _ = model.attention_output(int(hook.split(".")[1]))
        return row @ W_O.float().cpu().flatten(0, 1)
    writes = hook.rpartition(".")[2] in D_MODEL_HOOKS or hook.endswith(("attn.hook_out", "mlp.hook_out"))
    return row if writes else None


def _caveats(dictionary: Dictionary) -> tuple[str, ...]:
    direct = (
        "logit effects: direct path, less their mean over the vocabulary, the final norm's scale left out"
    )
    if dictionary.sae.cfg.normalize_activations == "none":
        return (direct,)
    return (direct, "a unit of the feature is one of the normalised activation")


def _context_html(context: Context, row: int, position: int) -> str:
    deepest = max(context.values)
    spans = "".join(
        f"<span{' class=' + chr(34) + 'peak' + chr(34) if index == context.peak else ''} "
        f'style="background:rgba(213,94,0,{max(0.0, value / deepest):.2f})" title="{value:.4g}">'
        f"{_shown(piece)}</span>"
        for index, (piece, value) in enumerate(zip(context.pieces, context.values, strict=True))
    )
    peak = context.values[context.peak]
    return f'<div class="text"><small>row {row}, token {position}, {html.escape(f"{peak:.3g}")}</small> {spans}</div>'


def _shown(piece: str) -> str:
    return html.escape(piece).replace("\n", "⏎") or "∅"


def _table(frame: pd.DataFrame) -> str:
    return frame.to_html(index=False, border=0, escape=True, float_format="{:.4g}".format)
