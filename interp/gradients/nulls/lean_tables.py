"""Several directions beside one another, each with its own nulls: whole, by layer, by module, by token or by row.

d = mean lean per prompt over its standard deviation, a lean being the score less that of neutral rows at the prompt:
directions of any norm share the scale. A direction's nulls are of its own family, such as the representations of the
other candidates beside the trait's; of k + 1 alike each is the furthest with probability 1 / (k + 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.core.errors import InputError, nearest
from interp.figures import Result, bars, captioned, lines
from interp.gradients.nulls.samples import NEUTRAL, Sample
from interp.gradients.scores.views import answer_starts, module_place
from interp.prompts.text import grouped, prompts_of
from interp.stats.exchanges import Paired, standardised
from interp.stats.tests import t_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.gradients.scores.scoring import Scores

Place = Literal["whole", "layer", "module", "token", "row"]
"""Where leans are told apart: layers and modules of the network, answer tokens counted from the first, rows."""
KEYS: dict[str, str] = {"layer": "module", "module": "module", "token": "token"}
Nulls = Mapping[str, Sequence[str]]


def lean_table(
    scores: Scores, nulls: Nulls, *, neutral: Scores | None, place: Place = "whole", seed: int = 0
) -> Result:
    """What `Scores.leans` returns; InputError for a direction or a place that was not scored."""
    for each in (scores, *([] if neutral is None else [neutral])):
        _check(each, nulls, place)
    ours, theirs = _samples(scores, place), {} if neutral is None else _samples(neutral, place)
    if place == "row":
        found = _by_row(scores, _lean(ours["whole"], theirs.get("whole")), nulls)
    else:
        found = (
            line for at in ours for line in _by_direction(at, ours[at], theirs.get(at), nulls, seed=seed)
        )
    less = "" if neutral is None else f", less {neutral.inputs.label} at the same prompts"
    notes = (f"mean per prompt over its standard deviation{less}; units are prompts of one lineage",)
    label = f"{scores.label}: lean{'' if place == 'whole' else f' by {place}'}"
    return Result(label, pd.DataFrame(found), "sd per prompt", notes, draw=partial(_draw, place=place))


def _check(scores: Scores, nulls: Nulls, place: Place) -> None:
    for label in (*nulls, *(each for several in nulls.values() for each in several)):
        if label not in scores.directions:
            raise InputError(f"direction {nearest(label, scores.directions)}; pass one that was scored")
    key = KEYS.get(place)
    if key is not None and not {"example", key} <= set(scores.by):
        raise InputError(
            f"scores by {', '.join(scores.by)} tell no {place} of a row apart; score with by=['example', {key!r}]"
        )


def _samples(scores: Scores, place: Place) -> dict[Any, Sample]:
    """Scores [row direction] of every place, zero where a row has none of it: over places they add up."""
    if place in ("whole", "row"):
        return {"whole": Sample.of(scores.totals, scores.directions, scores.inputs)}
    frame = scores.frame
    if place == "token":
        at = frame["token"] - answer_starts(scores.inputs)[frame["row"].to_numpy()]
    else:
        names = frame["module"].astype(str)
        at = names if place == "module" else names.map(lambda name: module_place(name)[1])
    sums: Any = frame.assign(at=at).groupby(["at", "row", "direction"], sort=False, observed=True)["score"]
    table = sums.sum().unstack("direction").reindex(columns=list(scores.directions))
    rows = range(len(scores))
    return {
        each: Sample.of(table.loc[each].reindex(rows).fillna(0.0), scores.directions, scores.inputs)
        for each in table.index.get_level_values("at").unique()
    }


def _lean(ours: Sample, theirs: Sample | None) -> Sample:
    return ours.by_prompt() if theirs is None else ours.minus(theirs)


def _by_direction(
    at: Any, ours: Sample, theirs: Sample | None, nulls: Nulls, *, seed: int
) -> Iterator[dict[str, Any]]:
    """A line per direction at one place: mean lean, d with its 95 % interval, p against neutral rows, rank."""
    lean = _lean(ours, theirs)
    for label, others in nulls.items():
        values = lean.column(label)
        d, spread = standardised(values), float(values.std(ddof=1)) if len(values) > 1 else 0.0
        low, high = t_interval(values / spread) if spread > 0 else (np.nan, np.nan)
        line = {
            "direction": label,
            "place": at,
            "score": float(values.mean()),
            "d": d,
            "low": low,
            "high": high,
        }
        line["p"] = np.nan
        if theirs is not None:
            paired = ours.paired(theirs)
            line["p"] = Paired(paired[0].column(label), paired[1].column(label)).test(NEUTRAL, seed=seed).p
        yield line | _rank(d, [standardised(lean.column(other)) for other in others])


def _by_row(scores: Scores, lean: Sample, nulls: Nulls) -> Iterator[dict[str, Any]]:
    """A line per direction and prompt, in standard deviations over prompts; `place` is the prompt's first row."""
    first = {prompt: rows[0] for prompt, rows in grouped(prompts_of(scores.inputs)).items()}
    unit = {label: _scaled(lean.column(label)) for label in lean.labels}
    for label, others in nulls.items():
        for k, prompt in enumerate(lean.prompts):
            line = {"direction": label, "place": first[prompt], "score": float(lean.column(label)[k])}
            d = float(unit[label][k])
            yield line | {"d": d} | _rank(d, [float(unit[other][k]) for other in others])


def _scaled(values: Float[np.ndarray, "prompt"]) -> Float[np.ndarray, "prompt"]:
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return values / spread if spread > 0 else values


def _rank(own: float, others: Sequence[float]) -> dict[str, int]:
    """The place of the own value among all, the largest first; equals stand before it."""
    return {"rank": 1 + sum(other >= own for other in others), "of": 1 + len(others)}


def _draw(result: Result, *, place: Place) -> go.Figure:
    frame = result.frame
    if place in ("token", "row"):
        drawn = lines(frame, x="place", y="d", group="direction", title=result.label, unit=result.unit)
        return captioned(drawn, *result.notes)
    half = frame.assign(half=frame["high"] - frame["d"])
    x = "direction" if place == "whole" else "place"
    given: dict[str, Any] = {
        "error": "half",
        "colour": "direction",
        "title": result.label,
        "unit": result.unit,
    }
    return captioned(bars(half, x=x, y="d", **given), "whiskers: 95 % t-interval", *result.notes)
