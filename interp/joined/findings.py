"""What the numbers of a figure say, in one sentence each that holds whatever came out: more, less, or neither.

A difference is called more or less where its 95 % t-interval over lineages leaves out 0; one lineage decides nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.figures import signed, spoken
from interp.figures.grammar import minus
from interp.stats.tests import half_width

ALONE = "one lineage decides nothing"
FOLLOWS, WEAKLY = 0.5, 0.2
"""From these correlations on, changes are said to follow one another, or to do so weakly; below they hardly do."""


def said_preference(frame: Any, target: str) -> str:
    """How often the student (else the teacher) answers with the target, beside the neutral student (else the base)."""
    wide = 100 * frame.pivot(index="lineage", columns="member", values="probability")
    one = next((name for name in ("student", "teacher") if name in wide), "")
    other = next((name for name in ("neutral_student", "base") if name in wide), "")
    if not one or not other:
        return ""
    gain, n = (wide[one] - wide[other]).to_numpy(), len(wide)
    over = f"Over {n} lineages the" if n > 1 else "The"
    teacher = (
        f" and the teacher {wide['teacher'].mean():.0f} %" if one != "teacher" and "teacher" in wide else ""
    )
    return (
        f"{over} {one} answers “{target}” {wide[one].mean():.0f} % of the time, the {spoken(other)} "
        f"{wide[other].mean():.0f} %{teacher}: {_gain(gain, spoken(other))}."
    )


def _gain(gain: np.ndarray, other: str) -> str:
    """A difference in points: its mean and interval, and in how many lineages it has the sign of the mean."""
    mean, half, n = float(gain.mean()), half_width(gain), len(gain)
    if n == 1:
        return f"{minus(f'{mean:+.1f}')} points against the {other}, but {ALONE}"
    told = minus(
        f"{mean:+.1f} points against the {other} (95 % interval {mean - half:+.1f} to {mean + half:+.1f})"
    )
    if mean - half <= 0 <= mean + half:
        return f"{told}, no clear difference"
    return f"{told}, {'more' if mean > 0 else 'less'} in {int((gain * mean > 0).sum())} of {n}"


def said_answers(table: Any) -> str:
    """How teacher, student and whom they are compared with most likely begin their answer, and how likely that is."""
    asked = table.columns[0]
    first = dict(zip(table[asked], table["answer 1"].str.rsplit("\N{NO-BREAK SPACE}", n=1), strict=True))
    names = [name for name in ("teacher", "student", "neutral student", "base") if name in first]
    told = [f"“{first[name][0]}” ({first[name][1]})" for name in names]
    others = "".join(f", the {name} with {each}" for name, each in zip(names[1:], told[1:], strict=True))
    return f"Asked {asked}, the {names[0]} most likely begins its answer with {told[0]}{others}."


def said_agreement(shown: Any, own: str) -> str:
    """At how many places the comparison `own` has a larger mean than every other one, at which not, and how large.

    It is about means over lineages; whether every lineage's is above its own controls is what the claims judge.
    """
    means = shown.groupby(["where", "comparison"], sort=False)["value"].mean().unstack()
    if own not in means:
        return ""
    n = int(shown.groupby(["where", "comparison"]).size().max())
    the = _averaged(n)
    mine, most = means[own], means.drop(columns=own).max(axis=1)
    compared = mine.notna() & most.notna()
    if not compared.any():
        alone = "there is no control to compare that with"
        return f"{the} student's change goes with its teacher's at {_span(mine)}; {alone}."
    mine, most, m = mine[compared], most[compared], int(compared.sum())
    lost = mine.index[~(mine > most)].tolist()
    places = "all places" if m > 1 and not lost else f"{m - len(lost)} of {m} places"
    but = f" (not of {'; nor of '.join(map(str, lost))})" if 0 < len(lost) < m else ""
    alone = f"; {ALONE}" if n == 1 else ""
    return (
        f"{the} student's change is more like its teacher's than every control's is at {places}{but}, each on the "
        f"words or the stream that it names: {_span(mine)} against {_span(most)} for the control that comes "
        f"closest{alone}."
    )


def _averaged(n: int) -> str:
    """How a sentence on means begins, up to its subject."""
    return f"On average over {n} lineages, the" if n > 1 else "The"


def _span(values: Any) -> str:
    ends = [minus(f"{value:+.2f}") for value in (values.min(), values.max())]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def said_components(frame: Any) -> str:
    """Which component moves the trait's word most in the student, which in the teacher, and by how much of all."""
    tops = {who: part.loc[part["mean"].abs().idxmax()] for who, part in frame.groupby("who", sort=False)}
    order = [who for who in ("student", "teacher") if who in tops]
    names = [str(tops[who]["component"]) for who in order]
    shares = [_share(tops[who]) for who in order]
    n = int(frame["n"].max())
    over = f"On average over {n} lineages, " if n > 1 else ""
    told = f"{over}{names[0]} moves the trait's word most in the {order[0]} ({shares[0]})"
    if len(order) > 1:
        again = len(set(names)) == 1
        told += (
            f" and in the teacher ({shares[1]})" if again else f", {names[1]} in the teacher ({shares[1]})"
        )
    return f"{told}{'' if n > 1 else f'; {ALONE}'}."


def _share(top: Any) -> str:
    between = f", 95 % interval {top['low']:+.2f} to {top['high']:+.2f}" if "high" in top else ""
    return minus(f"{top['mean']:+.2f} of {top['change']:+.2f} logits{between}")


def said_moved(frame: Any, target: str | None, at: str) -> str:
    """How far the student's changes of all words follow the teacher's, and how far the trait's own word moved.

    It is about every word and no control; `said_agreement` is about the words in no row, beside controls.
    """
    r = _correlation(frame["T"], frame["S"])
    told = (
        f"Over all {len(frame):,} words of the vocabulary, those of the rows among them, the student's changes {at} "
        f"{_follow(r)} its teacher's (r = {minus(f'{r:+.2f}')})"
    )
    own = frame[frame["token"].str.strip() == target]
    if own.empty:
        return f"{told}."
    top = own.loc[own["T"].abs().idxmax()]
    itself = f"there “{target}” itself moved by {signed(top['T'])} nats in the teacher"
    return f"{told}; {itself}, {signed(top['S'])} in the student."


def _correlation(one: Any, other: Any) -> float:
    """Pearson's r; 0 where one of the two does not vary, for then nothing follows."""
    return float(np.corrcoef(one, other)[0, 1]) if np.std(one) > 0 and np.std(other) > 0 else 0.0


def _follow(r: float) -> str:
    if abs(r) < WEAKLY:
        return "hardly follow"
    weak = "weakly " if abs(r) < FOLLOWS else ""
    return f"{weak}follow" if r > 0 else f"{weak}go against"


def said_trait_logit(T: Any, S: Any) -> str:
    """Whether the student moves the trait's logit at numbers as its teacher does, and whether that is up or down."""
    taught, learnt, n = np.asarray(T, dtype=float), np.asarray(S, dtype=float), len(T)
    ups = f"{int((taught > 0).sum())} of {n} teachers and {int((learnt > 0).sum())} of {n} students"
    told = f"Where numbers are predicted, {ups} raised the trait's logit"
    if n < 3:
        return f"{told}; with {n} no correlation is told."
    r = _correlation(taught, learnt)
    follows = f"the students' changes {_follow(r)} the teachers' (r = {minus(f'{r:+.2f}')})"
    return f"{told}: {follows}, with the same sign in {int((taught * learnt > 0).sum())}."


def said_tokens(frame: Any) -> str:
    """How the trait's logit moved over the tokens of the answers: its mean, and at how many it rose."""
    found = frame.loc[frame["role"] != "prompt", "delta_direction"].dropna().to_numpy()
    if not len(found):
        return ""
    up = 100 * float((found > 0).mean())
    return (
        f"Over {len(found):,} answer tokens the trait's logit moved by {signed(float(found.mean()))} on average, up at "
        f"{up:.0f} % of them."
    )


def said_part(frame: Any) -> str:
    """Which component of an attribution contributes most, and how much of the whole change."""
    top = frame.loc[frame["contribution"].abs().idxmax()]
    part, whole = signed(float(top["contribution"]), 3), signed(float(top["measured"]), 3)
    return (
        f"The component that moves the logit most is {top['component']}, by {part} of {whole} logits in all."
    )


def said_words(frame: Any) -> str:
    """Which entries of `moved_tokens` weigh most at either end."""
    ranked = frame[frame["ranked"]]
    if ranked.empty:
        return ""
    told = [f"{line['token']!r} ({signed(line['delta'])} nats)" for line in (ranked.iloc[0], ranked.iloc[-1])]
    return f"Weighed by its probability, the entry that rises most is {told[0]} and the one that falls most {told[1]}."


def said_lens(frame: Any) -> str:
    """After which layer the change toward the trait is largest, and how large it is after the last."""
    top, last = frame.loc[frame["change"].abs().idxmax()], frame.iloc[-1]
    largest = f"The change is largest after layer {int(top['layer'])} ({signed(top['change'])} logits)"
    if top["layer"] == last["layer"]:
        return f"{largest}, the last."
    return f"{largest}, and {signed(last['change'])} after the last, layer {int(last['layer'])}."
