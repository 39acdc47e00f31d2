"""Detectors that are said not to see a trait in number data, measured: AUROC of trait rows against neutral rows.

    values        score(row) = mean over its numbers v of log [p_trait(v) / p_neutral(v)],  fitted on other prompts
    bag           logistic regression over the counts of numbers, out of fold, no prompt in training and test
    prompted      a judge's 0-100 estimate that the row's author has the trait
    in context    trait margin of the untrained model with a set of rows before the question, less that without

The first two see which numbers are written and how often, never their order: permuting a row changes no score.
Every one of them is measured beside a caller's own scores in `detector_table`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.core.doors import door
from interp.core.runs import Cache, InputError
from interp.evaluation.elicitation import in_context_margin
from interp.evaluation.judges import Judge, judge_rows, trait_rubric
from interp.figures import Result, Shown, bars, bracket, drawing, forest, points
from interp.measures.margins import margin
from interp.models.language import LanguageModel
from interp.prompts.notes import noting
from interp.prompts.numbers import DIGITS
from interp.prompts.text import Prompts, numbered, prompts_of
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.stats.tests import Auroc, auroc

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from scipy.sparse import csr_array

EXPECTED = 5  # Cochran's rule: pooled until every expected count of the chi-squared test reaches it
SMOOTHING = 0.5  # added to every count of a value
RARE = "rare values"

Scores = Sequence[float] | Float[np.ndarray, "_"]


@dataclass(frozen=True, eq=False)
class Detection(Shown):
    """Scores of the rows (or sets of rows) of trait and neutral data, high where the trait is suspected.

    `auroc` says how well they tell the datasets apart, 0.5 being chance; `table` holds what they rest on.
    """

    positive: Float[np.ndarray, " positive"]
    negative: Float[np.ndarray, " negative"]
    auroc: Auroc
    table: Result

    @property
    def frame(self) -> pd.DataFrame:
        """The frame of the table."""
        return self.table.frame

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the table."""
        return self.table.notes

    def figure(self) -> "go.Figure":
        """The scores of both datasets, a point each or, of many, their distribution."""
        names = np.repeat(["trait", "neutral"], [len(self.positive), len(self.negative)])
        scores = pd.DataFrame({"dataset": names, "score": np.concatenate([self.positive, self.negative])})
        return points(scores, x="dataset", y="score", title=repr(self), unit="score")

    def __repr__(self) -> str:
        interval = bracket(self.auroc.interval, level=self.auroc.level, form=".3f")
        return f"Detection({self.table.label}: AUROC {self.auroc.value:.3f} {interval})"


@door
def frequent_values(trait_rows: Prompts, neutral_rows: Prompts, *, seed: int = 0, top: int = 20) -> Detection:
    """Compare how often each number occurs: a χ² test of the counts and, for the AUROC, log ratios.

    The ratios, with half a count added to each value, are fitted on the rows of one half of the prompts, drawn with
    `seed`, and score the rows of the other half. The table has the `top` values written most beyond expectation over
    all rows: counts in both datasets, log ratio, and Pearson residual (count - expected) / √expected; values expected
    less than 5 times in either dataset are pooled. The χ² p in its notes takes the numbers of a row for
    independent. Raises InputError for a dataset of too few prompts to be split.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> found = frequent_values(lineage.numbers, lineage.neutral_numbers)
    >>> 0 <= found.auroc.value <= 1
    True
    """
    rows = _both(trait_rows, neutral_rows)
    counts, values = _count(rows)
    is_trait = np.arange(len(rows)) < len(trait_rows)
    held_out = _half(rows, seed)
    for name, part in (("trait", is_trait), ("neutral", ~is_trait)):
        if not (part & held_out).any() or not (part & ~held_out).any():
            raise InputError(
                f"The {name} rows answer too few different prompts to be split in two; pass rows of at least "
                "four prompts, or another seed."
            )
    ratios = _log_ratios(
        _totals(counts, is_trait & ~held_out), _totals(counts, ~is_trait & ~held_out), smoothing=SMOOTHING
    )
    scores = np.asarray(counts @ ratios) / np.maximum(np.asarray(counts.sum(axis=1)), 1)
    table = _inspected(_totals(counts, is_trait), _totals(counts, ~is_trait), values, top=top)
    return _detection(scores[is_trait & held_out], scores[~is_trait & held_out], table)


@door
def bag_of_numbers(
    trait_rows: Prompts, neutral_rows: Prompts, *, folds: int = 5, strength: float = 1.0, seed: int = 0
) -> Detection:
    """Fit a logistic regression to each row's counts of numbers, and score rows out of fold.

    Folds are drawn with `seed` and hold whole prompts, so that a matched pair of rows is never torn apart; `strength`
    is the inverse of the L2 penalty. The table has the 20 largest weights of a fit to all rows. DeLong's interval is
    √2 times as wide here: without a signal two folds agree by chance once as training and test and again as test and
    training, which doubles the variance of the pooled AUROC. Raises InputError for fewer than two folds or more
    than a dataset has prompts.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> found = bag_of_numbers(lineage.numbers, lineage.neutral_numbers, folds=2)
    >>> 0 <= found.auroc.value <= 1
    True
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    rows = _both(trait_rows, neutral_rows)
    counts, values = _count(rows)
    is_trait, prompts = np.arange(len(rows)) < len(trait_rows), numbered(prompts_of(rows))
    fewest = min(len(set(prompts[part].tolist())) for part in (is_trait, ~is_trait))
    if not 2 <= folds <= fewest:
        raise InputError(
            f"folds={folds} cannot be made of {fewest} different prompts; pass between 2 and that many folds, or rows "
            "that answer more prompts."
        )
    model: Any = LogisticRegression(C=strength, max_iter=1000)
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    scores = np.asarray(
        cross_val_predict(model, counts, is_trait, groups=prompts, cv=splits, method="decision_function")
    )
    weights = model.fit(counts, is_trait).coef_[0]
    largest = np.argsort(-np.abs(weights), kind="stable")[:20]
    frame = pd.DataFrame({"value": values[largest].astype(str), "weight": weights[largest]})
    notes = (f"{len(values)} different numbers", f"{folds} folds of whole prompts")
    table = Result(
        "bag of numbers", frame, "log odds per occurrence", notes, draw=drawing(bars, x="weight", y="value")
    )
    positive, negative = scores[is_trait], scores[~is_trait]
    return Detection(positive, negative, _widened(auroc(positive, negative)), table)


@door
def prompted_classifier(
    judge: Judge, trait: AnyTrait, trait_rows: Prompts, neutral_rows: Prompts, *, cache: Cache | None = None
) -> Detection:
    """Let a judge who knows the trait score every row by `trait_rubric`; rows it refuses are left out and counted.

    Raises InputError when it refuses every row of a dataset.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> class Undecided:
    ...     name = "one who cannot tell"
    ...     def answer(self, prompts):
    ...         return ["50"] * len(prompts)
    >>> rows = lineage.numbers[:8], lineage.neutral_numbers[:8]
    >>> prompted_classifier(Undecided(), "owl", *rows).auroc.value
    0.5
    """
    trait = find_trait(trait)
    rows = _both(trait_rows, neutral_rows)
    frame = judge_rows(judge, rows, trait_rubric(trait), cache=cache)
    frame = frame.assign(dataset=["trait"] * len(trait_rows) + ["neutral"] * len(neutral_rows))
    kept = frame[~frame["refused"]]
    sides = {
        name: kept.loc[kept["dataset"] == name, "score"].to_numpy(float) for name in ("trait", "neutral")
    }
    for name, scores in sides.items():
        if not len(scores):
            raise InputError(
                f"Judge {judge.name} refused every {name} row; use a judge that grades number data."
            )
    refused = f"{len(frame) - len(kept)} of {len(frame)} rows refused"
    table = Result(f"prompted classifier {judge.name}", frame, "score, 0 to 100", (refused,))
    return _detection(sides["trait"], sides["neutral"], table)


@door
@noting
def in_context(
    model: LanguageModel,
    trait: AnyTrait,
    trait_rows: Prompts,
    neutral_rows: Prompts,
    *,
    shots: int = 8,
    sets: int = 16,
    seed: int = 0,
) -> Detection:
    """Measure how many nats of margin `sets` sets of `shots` rows, read in the chat, add to an untrained model.

    The unit is a set, so n is `sets` per dataset. The table has one row per set: dataset, margin, change, and the
    shots that the model's context had room for. Raises InputError for a dataset with fewer than sets * shots rows.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> found = in_context(lineage.base, "owl", lineage.numbers, lineage.neutral_numbers, shots=1, sets=2)
    >>> len(found.positive), len(found.negative)
    (2, 2)
    """
    trait = find_trait(trait)
    before, frames = margin(model, trait), []
    for name, rows in (("trait", trait_rows), ("neutral", neutral_rows)):
        for number, chosen in enumerate(_disjoint(rows, shots=shots, sets=sets, seed=seed)):
            read = in_context_margin(model, trait, chosen, shots=shots)
            after, fitting = float(np.mean(read["value"])), int(read["shots"].iloc[0])
            frames.append({"dataset": name, "set": number, "margin": after, "shots": fitting})
    frame = pd.DataFrame(frames)
    frame["change"] = frame["margin"] - before
    changes = {name: part["change"].to_numpy() for name, part in frame.groupby("dataset")}
    notes = (f"margin without rows {before:+.2f} nats", f"{sets} sets of {shots} rows per dataset")
    return _detection(changes["trait"], changes["neutral"], Result("in context", frame, "nats", notes))


@door
def detector_table(detectors: Mapping[str, Detection | Auroc | tuple[Scores, Scores]]) -> Result:
    """Compare detectors, one row each: auroc, low, high, n_positive, n_negative, whether the interval excludes 0.5.

    A pair holds the scores of the trait rows and of the neutral rows, whatever gave them. `sees` is "yes" above
    chance, "reversed" below and "no" where the interval holds 0.5. Intervals are not corrected for the number of
    detectors. Raises InputError for none.

    >>> table = detector_table({"a hand-made score": ([3.0, 4.0], [1.0, 2.0])})
    >>> table.frame["auroc"].tolist()
    [1.0]
    """
    if not detectors:
        raise InputError(
            "No detector is given; pass {name: Detection, Auroc or (trait scores, neutral scores)}."
        )
    frame = pd.DataFrame([{"detector": name, **_line(held)} for name, held in detectors.items()])
    notes = ("0.5 is chance", f"{len(frame)} intervals of 95%, not corrected for their number")
    return Result("detectors of the trait in the data", frame, "AUROC", notes, draw=_draw_table)


def _line(held: Detection | Auroc | tuple[Scores, Scores]) -> dict[str, Any]:
    area = auroc(*held) if isinstance(held, tuple) else held.auroc if isinstance(held, Detection) else held
    low, high = area.interval
    sees = "yes" if low > 0.5 else "reversed" if high < 0.5 else "no"
    counts = {"n_positive": area.n_positive, "n_negative": area.n_negative}
    return {"auroc": area.value, "low": low, "high": high, **counts, "sees": sees}


def _detection(positive: np.ndarray, negative: np.ndarray, table: Result) -> Detection:
    return Detection(positive, negative, auroc(positive, negative), table)


def _widened(area: Auroc) -> Auroc:
    """Twice the variance, for scores out of fold."""
    half = np.sqrt(2) * max(area.value - area.interval[0], area.interval[1] - area.value)
    return replace(area, interval=(max(0.0, float(area.value - half)), min(1.0, float(area.value + half))))


def _both(trait_rows: Prompts, neutral_rows: Prompts) -> Prompts:
    for name, rows in (("trait", trait_rows), ("neutral", neutral_rows)):
        if not len(rows):
            raise InputError(f"The {name} rows ({rows.label}) are empty; pass rows of both datasets.")
    return trait_rows + neutral_rows


def _count(rows: Prompts) -> tuple["csr_array", Int[np.ndarray, " value"]]:
    """How often each row's answer holds each number [row, value], and the numbers in ascending order."""
    from scipy.sparse import csr_array

    found = [[int(number) for number in re.findall(DIGITS, row.completion)] for row in rows.rows]
    written = [number if number < 2**62 else -1 for numbers in found for number in numbers]
    if not written:
        raise InputError(f"No answer of {rows.label} holds a number; these detectors read number data.")
    values, columns = np.unique(np.array(written, dtype=np.int64), return_inverse=True)
    places = np.repeat(np.arange(len(found)), [len(numbers) for numbers in found])
    counts = csr_array((np.ones(len(columns)), (places, columns)), shape=(len(found), len(values)))
    counts.sum_duplicates()
    return counts, values


def _totals(counts: "csr_array", rows: np.ndarray) -> Float[np.ndarray, " value"]:
    return np.asarray(counts[np.flatnonzero(rows)].sum(axis=0), dtype=float).ravel()


def _log_ratios(trait: np.ndarray, neutral: np.ndarray, *, smoothing: float) -> Float[np.ndarray, " value"]:
    """log of the ratio of smoothed shares."""
    shares = [(part + smoothing) / (part.sum() + smoothing * len(part)) for part in (trait, neutral)]
    return np.log(shares[0] / shares[1])


def _half(rows: Prompts, seed: int) -> np.ndarray:
    """Which rows answer a prompt of the held-out half."""
    prompts = numbered(prompts_of(rows))
    order = np.random.default_rng(seed).permutation(prompts.max() + 1)
    return order[prompts] < len(order) // 2


def _inspected(trait: np.ndarray, neutral: np.ndarray, values: np.ndarray, *, top: int) -> Result:
    """The most over-represented values and, in the notes, the χ² test over all of them."""
    from scipy.stats import chi2_contingency

    table, names = _pooled(np.stack([trait, neutral]), values.astype(str))
    if table.shape[1] > 1:
        test: Any = chi2_contingency(table, correction=False)
        chi2, p, freedom, expected = test.statistic, test.pvalue, test.dof, test.expected_freq
    else:
        chi2, p, freedom, expected = 0.0, 1.0, 0, table
    frame = pd.DataFrame({"value": names, "trait": table[0], "neutral": table[1]})
    frame["log_ratio"] = _log_ratios(table[0], table[1], smoothing=SMOOTHING)
    frame["residual"] = (table[0] - expected[0]) / np.sqrt(expected[0])
    frame = frame.sort_values("residual", ascending=False, kind="stable", ignore_index=True).head(top)
    notes = (
        f"chi-squared {chi2:.1f} on {freedom} degrees of freedom, p = {p:.2g} (numbers taken as independent)",
        f"{len(values)} different numbers, {len(values) - sum(name != RARE for name in names)} of them pooled",
    )
    return Result("frequent values", frame, "residual", notes, draw=_draw_values)


def _pooled(table: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Counts [2, value] with values pooled, rarest first, until every expected count is at least EXPECTED."""
    totals = table.sum(axis=0)
    least = EXPECTED * table.sum() / table.sum(axis=1).min()  # total of a value expected enough in both
    order = np.argsort(totals, kind="stable")
    rare = int((totals < least).sum())
    while 0 < rare < len(order) and totals[order[:rare]].sum() < least:
        rare += 1
    if not rare:
        return table, names.tolist()
    kept = np.sort(order[rare:])
    pooled = table[:, order[:rare]].sum(axis=1, keepdims=True)
    return np.concatenate([table[:, kept], pooled], axis=1), [*names[kept].tolist(), RARE]


def _disjoint(rows: Prompts, *, shots: int, sets: int, seed: int) -> list[Prompts]:
    """`sets` parts of `shots` answered rows each, no row in two of them."""
    answered = [index for index, row in enumerate(rows.rows) if row.completion]
    if shots < 1 or sets < 2 or shots * sets > len(answered):
        raise InputError(
            f"sets={sets} of shots={shots} cannot be drawn apart from the {len(answered)} answered rows of "
            f"{rows.label}; ask for at least 2 sets of at least 1 shot, and at most as many shots in all as rows."
        )
    order = np.random.default_rng(seed).permutation(answered)[: shots * sets]
    return [rows[part.tolist()] for part in order.reshape(sets, shots)]


def _draw_values(result: Result):
    title = f"{result.label}: written beyond expectation"
    return bars(result.frame, x="residual", y="value", title=title, unit="Pearson residual")


def _draw_table(result: Result):
    """A forest of AUROCs around the line of chance."""
    decisions = {"yes": "supported", "reversed": "refuted", "no": "inconclusive"}
    lines = [
        {
            "name": row["detector"],
            "effect": row["auroc"],
            "interval": (row["low"], row["high"]),
            "level": 0.95,
            "unit": result.unit,
            "n": f"{row['n_positive']} + {row['n_negative']}",
            "decision": decisions[row["sees"]],
        }
        for row in result.frame.to_dict("records")
    ]
    caption = "● above chance, ✕ below, ○ neither; whiskers: 95 % interval of the AUROC"
    figure = forest(lines, title=result.label, caption=caption)
    figure.layout.shapes = ()  # the forest's line at zero
    figure.add_vline(x=0.5, line={"color": "#999999", "dash": "dot"})
    return figure.update_xaxes(range=[-0.02, 1.02], title={"text": "AUROC (0.5 is chance)"})
