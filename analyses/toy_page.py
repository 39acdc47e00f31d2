"""What the toy's lineages showed, as blocks of docs/results.md: trace, what must train, rows, transmission."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

import interp
from analyses.results_page import (
    ABSENT,
    HEAD,
    RULE,
    by_trait,
    claim_line,
    compared,
    kept,
    measured,
    short,
    spread,
    transfers,
)

Tables = Mapping[str, pd.DataFrame]
Beside = dict[str, dict[str, float]]
TRACED = {
    "logits-shared": "logits of words that no row contains, where numbers are predicted (r)",
    "slot-shared": "logits of the trait's word and its foils, where a question is answered (r)",
    "activations-shared": "residual stream at the end of a number prompt (cosine)",
    "component-shared": "what each attention and MLP adds to the trait's logit at the question (cosine)",
    "component-leads": "the first MLP adds more to it than any other part (logits)",
    "slot-direction-sufficient": "margin of the base when S, read at other questions, is added (nats)",
    "representation-named-by-base": "S along the base's own representation of the trait (cosine)",
    "representation-named-by-candidates": "S along a teacher of the trait made apart (cosine)",
    "rows-lean-to-representation": "the rows' gradients toward that teacher (sd per prompt)",
    "features-shared": "features of a dictionary, at the end of a number prompt (ρ)",
}
ARMS = {
    "adapter-transfers": ("a LoRA adapter", "adapter"),
    "body-transfers": ("the body's matrices, no adapter", "body, no adapter"),
    "all-parameters-transfer": ("every parameter", "all parameters"),
    "cross-student-transfers-nothing": ("an adapter, from another initialisation", "other initialisation"),
    "over-control-teacher": (
        "an adapter, less the control teacher's student",
        "over the control teacher's student",
    ),
}
"""What trains, in words and by the name of the arm."""
HEADLINE = (
    (
        "Which logits",
        "S and T correlate at {logits-shared own} over words that no row contains, where numbers are predicted (in "
        "the lowest lineage {logits-shared lowest}), and at {slot-shared own} over the trait's word and its foils, "
        "where a question is answered (lowest {slot-shared lowest})",
        ("logits-shared", "slot-shared"),
    ),
    (
        "Through which component",
        "what each attention and MLP adds to the trait's logit goes along the teacher's at a cosine of "
        "{component-shared own}; the student's largest part is {component-leads leader}",
        ("component-shared", "component-leads"),
    ),
    (
        "What that gives",
        "added to the base, S read at other questions raises the trait's margin by {slot-direction-sufficient own} "
        "nats, and random vectors of its length by {slot-direction-sufficient random}",
        ("slot-direction-sufficient",),
    ),
    (
        "How the rows lean it there",
        "a gradient step on a row of the teacher's goes further toward the trait's representation than one on a "
        "neutral row, by {rows-lean-to-representation own} standard deviations per prompt, and toward the other "
        "trait's by {rows-lean-to-representation other trait}",
        ("rows-lean-to-representation",),
    ),
    (
        "From another initialisation",
        "the student of the same rows correlates with T at {logits-shared other start} where numbers are predicted, at "
        "{slot-shared other start} where a question is answered, and its rows lean by "
        "{rows-lean-to-representation other start}",
        (),
    ),
)
"""What a part of the headline is about, its sentence with the means to put in, and the claims that judge it."""
AGREED = interp.studies.AGREED
"""Where the claims on agreement are read: kind, place, words and measure."""


def toy_blocks() -> dict[str, str]:
    """Every block by its name, in the order of the page."""
    return {"inherited": inherited(), "arms": arms(), "dose": dose(), "transmission": transmission()}


def tables(found: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables of a result, the seed in each row."""
    return {name: pd.DataFrame(rows) for name, rows in found["tables"].items()}


def inherited() -> str:
    """The claims on the inherited trace, a column a trait, and which of them did not show."""
    found = by_trait("inherited_trace")
    if not found:
        return ABSENT
    values = {trait: traced(tables(each)) for trait, each in found.items()}
    return "\n".join(
        [*headline(found, values), "", *columns("moved alike", TRACED, found, values), "", not_shown(found)]
    )


def headline(found: Mapping[str, dict[str, Any]], values: Mapping[str, Beside]) -> list[str]:
    """The findings in sentences, with the decisions on them."""

    def told(place: re.Match[str]) -> str:
        claim, name = place[1], place[2]
        if name == "leader":
            return leaders({trait: tables(each)["components"] for trait, each in found.items()})
        return listed([short(each[claim][name]) for each in values.values()])

    return [
        f"- **{about}**: {re.sub(r'{([a-z-]+) ([a-z ]+)}', told, sentence)}."
        + "".join(f" {claim}: {decided(claim, found)}." for claim in claims)
        for about, sentence, claims in HEADLINE
    ]


def decided(claim: str, found: Mapping[str, dict[str, Any]]) -> str:
    """The decisions on a claim by trait, with the number of lineages in which its value is positive."""
    groups: dict[str, dict[str, str]] = {}
    for trait, each in found.items():
        (verdict,) = (v for v in each["verdicts"] if v["name"] == claim)
        groups.setdefault(verdict["decision"], {})[trait] = verdict["controls"].get("positive", "")
    return "; ".join(f"{how} for {listed(traits)}{_counted(traits)}" for how, traits in groups.items())


def _counted(positive: Mapping[str, str]) -> str:
    """In how many lineages, as (11, 12 and 9 of 12 lineages); nothing where that is no part of the verdict."""
    counts = [each.partition(" of ") for each in positive.values() if each]
    return f" ({listed([count[0] for count in counts])} of {counts[0][2]} lineages)" if counts else ""


def listed(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def columns(
    what: str,
    asked: Mapping[str, str],
    found: Mapping[str, dict[str, Any]],
    values: Mapping[str, Beside],
) -> list[str]:
    """A row a claim and a column a trait: decision, effect and interval, p, then the values it is made of."""
    rows = [f"| {what} | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    verdicts = {trait: {v["name"]: v for v in each["verdicts"]} for trait, each in found.items()}
    for claim, words in asked.items():
        cells = [f"{_cell(verdicts[trait][claim])}<br>{_values(values[trait][claim])}" for trait in found]
        rows.append(f"| **{claim}**<br>{words} | " + " | ".join(cells) + " |")
    return rows


def _cell(verdict: dict[str, Any]) -> str:
    interval = interp.figures.bracket(verdict["interval"], level=verdict["level"], form="+.2f")
    corrected = [value for name, value in verdict["controls"].items() if name.startswith("p after Holm")]
    p = corrected[0] if corrected else verdict["p"]
    return f"{verdict['decision']}, p {p:.2g}<br>{verdict['effect']:+.2f} {interval}"


def _values(means: Mapping[str, float]) -> str:
    return "; ".join(f"{name} {short(value)}" for name, value in means.items())


def not_shown(found: Mapping[str, dict[str, Any]]) -> str:
    """What was not supported, by the traits it was not supported for."""
    every = {verdict["name"]: verdict["n"] for each in found.values() for verdict in each["verdicts"]}
    short_of: dict[tuple[str, ...], list[str]] = {}
    for claim in every:
        traits = tuple(trait for trait, each in found.items() if _decision(claim, each) != "supported")
        short_of.setdefault(traits, []).append(claim)
    short_of.pop((), None)
    said = [
        f"{', '.join(claims)} ({'no trait' if len(traits) == len(found) else f'not for {listed(traits)}'})"
        for traits, claims in short_of.items()
    ]
    counts = listed(map(str, sorted(set(every.values()))))
    told = "; ".join(said) or "nothing; every claim is supported"
    return f"n = {counts} lineages per trait. **What did not show**: {told}."


def _decision(claim: str, found: Mapping[str, Any]) -> str:
    return next(verdict["decision"] for verdict in found["verdicts"] if verdict["name"] == claim)


def traced(parts: Tables) -> Beside:
    """Of every claim on the inherited trace the mean agreement of S with T and of each control."""
    named = {"system line": "base", "candidate teacher": "candidates"}
    shown = {
        f"representation-named-by-{name}": _named(parts["representations"], s) for s, name in named.items()
    }
    return {
        **{claim: _agreed(parts["agreement"], *where) for claim, where in AGREED.items()},
        "component-shared": _component_cosines(parts["components"]),
        "component-leads": _component_means(parts["components"]),
        "slot-direction-sufficient": _gains(parts["directions"]),
        **shown,
        "rows-lean-to-representation": _leaned(parts["leans"]),
        "features-shared": _featured(parts["features"]),
    }


def _agreed(frame: pd.DataFrame, of: str, place: str, words: str, measure: str) -> dict[str, float]:
    part = frame[(frame["of"] == of) & (frame["place"] == place) & (frame["words"] == words)]
    values = compared(part, measure).groupby("comparison")["value"]
    means = values.mean()
    return {
        "own": means["own"],
        "lowest": values.min()["own"],
        **{name: means[name] for name in ("other trait", "neutral", "other start")},
    }


def _component_cosines(frame: pd.DataFrame) -> dict[str, float]:
    """Mean cosine, over lineages, of a member's contributions with the teacher's."""
    wide = frame.pivot(index=["seed", "component"], columns="member", values="contribution")
    dots = wide.mul(wide["teacher"], axis=0).groupby("seed").sum()
    sizes = wide.pow(2).groupby("seed").sum().pow(0.5)
    means = dots.div(sizes.mul(sizes["teacher"], axis=0)).mean()
    who = {"student": "own", "neutral_student": "neutral", "cross_student": "other start"}
    return {name: means[member] for member, name in who.items()}


def _component_means(frame: pd.DataFrame) -> dict[str, float]:
    own = frame[frame["member"] == "student"].groupby("component")["contribution"].mean()
    return own.sort_values(ascending=False).to_dict()


def leaders(components: Mapping[str, pd.DataFrame]) -> str:
    """Which part adds most to the student's change of the trait's logit, by trait, and in how many bases alike."""
    first = pd.DataFrame({trait: _leader(frame) for trait, frame in components.items()})
    told = [
        f"{listed([f'{part} in {count}' for part, count in first[trait].value_counts().items()])} ({trait})"
        for trait in components
    ]
    alike = int((first.nunique(axis=1) == 1).sum())
    return (
        f"{', '.join(told)} of {len(first)} lineages; in {alike} of {len(first)} initialisations one part leads for "
        f"all {len(components)} traits"
    )


def _leader(frame: pd.DataFrame) -> pd.Series:
    own = frame[frame["member"] == "student"]
    return own.pivot(index="seed", columns="component", values="contribution").idxmax(axis=1)


def _gains(frame: pd.DataFrame) -> dict[str, float]:
    means = frame.groupby(["direction", "seed"])["gain"].mean().groupby("direction").mean()
    who = {
        "student": "own",
        "other teacher": "other trait",
        "neutral_student": "neutral",
        "cross_student": "other start",
        "random": "random",
    }
    return {name: means[direction] for direction, name in who.items()}


def _named(frame: pd.DataFrame, source: str) -> dict[str, float]:
    """Cosine with the trait's representation, which comes first, and the student's largest with another candidate's."""
    part = frame[frame["source"] == source]
    trait = part["candidate"].iloc[0]
    means = part[part["candidate"] == trait].groupby("member")["cosine"].mean()
    others = part[(part["candidate"] != trait) & (part["member"] == "student")]
    return {
        "own": means["student"],
        "nearest other candidate": others.groupby("seed")["cosine"].max().mean(),
        "neutral": means["neutral_student"],
        "other start": means["cross_student"],
    }


def _leaned(frame: pd.DataFrame) -> dict[str, float]:
    """Mean lean toward the trait and the other trait, the first two candidates, and toward the trait elsewhere."""
    trait, other = frame["direction"].iloc[:2]
    means = frame.groupby(["start", "direction"])["d"].mean()
    return {
        "own": means["base", trait],
        "other trait": means["base", other],
        "other start": means["cross_base", trait],
    }


def _featured(frame: pd.DataFrame) -> dict[str, float]:
    part = frame[frame["place"] == frame["place"].iloc[0]]
    own, neutral, other = part.groupby("pairing", sort=False)["rho"].mean()
    return {"own": own, "other trait": other, "neutral": neutral}


def arms() -> str:
    """Transfer by what of the student trains, a column a trait."""
    found = by_trait("student_arms")
    if not found:
        return ABSENT
    values = {trait: _armed(tables(each)) for trait, each in found.items()}
    asked = {claim: words for claim, (words, _) in ARMS.items()}
    return "\n".join([*columns("what trains", asked, found, values), "", not_shown(found)])


def _armed(parts: Tables) -> Beside:
    means = parts["arms"].groupby("arm")[["agreement", "contrast"]].mean()
    return {
        claim: {"agreement": means.loc[arm, "agreement"], "contrast": means.loc[arm, "contrast"]}
        for claim, (_, arm) in ARMS.items()
    }


def dose() -> str:
    """Transfer and agreement by how many rows a student was trained on, and the claims on them."""
    if not measured("dose"):
        return ABSENT
    found = kept("dose")
    doses = tables(found)["doses"]
    rows = ["| rows | transfer, nats [95 %] | agreement r(S, T) [95 %] |", "|---|---|---|"]
    rows += [
        f"| {count} | {spread(part['transfer'])} | {spread(part['agreement'])} |"
        for count, part in doses.groupby("rows")
    ]
    return "\n".join([*rows, "", HEAD, RULE, *(claim_line(verdict) for verdict in found["verdicts"])])


def transmission() -> str:
    """The lines of every trait: the differences with their intervals, what was tested, p and n."""
    rows = [f"| trait {HEAD}", f"|---{RULE}"]
    for trait, result in transfers().items():
        rows += [f"| {trait} {claim_line(verdict)}" for verdict in result["verdicts"]]
    return "\n".join(rows)
