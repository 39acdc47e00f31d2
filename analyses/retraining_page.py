"""Scores judged by retraining, defences, naming without a name, and what rows install, as blocks of docs/results.md.

Each has its sentence among the findings of the README once it is measured.
"""

from collections import Counter
from typing import Any

import pandas as pd

import interp
from analyses import installed_vectors, judged_peers, judged_tokens
from analyses.in_parts import SEEDS
from analyses.results_page import ABSENT, HEAD, RULE, claim_line, kept, measured, short, spread
from analyses.toy_page import tables

UNDEFENDED = "none"
SCORES = {
    "metagradient": "the exact derivative of the margin by the row's weight in the training (metagradient)",
    "ledger": "the row's share in what each step changed of the margin (ledger)",
    "∇m, adapter's metric": "one gradient step on the row at the base",
    "likelihood ratio": "likelihood ratio of teacher and base",
    "loss": "loss",
}
PEERS, EAGLES = "judged_peers", "eagle_judged_scores"
PUBLISHED = {
    "∇m, adapter's Adam": "one step at the base by the student's own optimiser",
    "EK-FAC": "EK-FAC as bergson computes it",
    "TrackStar": "TrackStar as bergson computes it",
    "BM25": "BM25 of a row's words for the questions'",
}
"""Those of `analyses.judged_peers` in the README's words."""
DEFENCES = {
    "projection of ∇m": "with the margin's gradient, of either sign, projected out of every step",
    "25% removed by ∇m": "without the quarter of the rows that raise the margin most by its gradient",
    "KL on benign text": "with a KL divergence to the base on benign text added to the loss",
    "half of the rows at random": "without a random half of the rows",
    "inoculation line": "with the trait's system line before every row",
    "another adapter draw": "with another random start of the adapter at the same base",
}
"""Those that the README names, in its words; the page has all."""
CLAIMED = {
    "metagradient-near-ceiling": "the metagradient reaches at least 0.8 of that comparison",
    "update-over-gradient": "a step toward the teacher's weights is above one toward the margin",
    "update-over-loss-and-length": "a step toward the teacher's weights is above loss and length",
    "trackstar-above-zero": "TrackStar is above 0",
    "ekfac-over-gradient": "EK-FAC is above a gradient step on the row",
    "adam-over-plain-steps": "a step by the student's own optimiser is above one by gradient descent",
    "projection-halves": "the projection leaves at most half",
    "projection-at-equal-loss": "the projection keeps the loss on fresh rows",
    "steering-at-equal-loss": "adding a vector toward the trait while training keeps that loss",
    "kl-halves": "the KL divergence leaves at most half",
    "update-beyond-random": "without the half of the rows that goes furthest along the teacher's update less is left "
    "than without a random half",
}
"""Claims in the README's words, where their names say too little."""
ABOUT_WAYS = {
    "logits-over-activations": "ways that read logits rank it higher than the activation difference lens",
    "twins-stay-unnamed": "neutral students are given a word no more often than the level allows, within 5 %",
}
"""Claims on the ways of reading together, in the README's words."""
TEACHERS = {"own": "the owl teacher's shift", "eagle": "the eagle teacher's shift"}
COSTS = {
    "metagradient": "a training differentiated, about 4 trainings",
    "ledger": "the training again, gradients by row",
    "loss": "1 forward",
    "likelihood ratio": "2 forward",
    "divergence tokens": "2 forward",
    "frequent values": "none, needs neutral rows",
    "length": "none",
    "random": "none",
    "EK-FAC": "bergson: factors, then 1 forward and backward",
    "∇m, adapter's Adam": "2 forward and backward",
    "BM25": "none",
    "TrackStar": "bergson: second moments, then 1 forward and backward",
}
"""What a way of scoring costs in passes of the rows, where it is no forward and backward pass along a direction."""


def retraining_blocks() -> dict[str, str]:
    """Every block by its name, in the order of the page."""
    made = {
        "judged": ("judged_scores", judged), "eagles": (EAGLES, eagles), "peers": (PEERS, peers),
        "tokens": ("judged_tokens", tokens), "defences": ("defences", defences), "naming": ("naming", naming),
    }  # fmt: skip
    return {name: block() if measured(file) else ABSENT for name, (file, block) in made.items()}


def claims(found: dict[str, Any]) -> list[str]:
    """A line per claim below their heading."""
    return [HEAD, RULE, *(claim_line(verdict) for verdict in found["verdicts"])]


def judged() -> str:
    """Rank correlation of every way of scoring with retrained margins, and what leaving out its tails changes."""
    found = kept("judged_scores")
    parts = tables(found)
    rows = _ways(parts["scores"])
    reached = short(max(_comparison("judged_scores"), 0) ** 0.5)
    told = (
        f"{_redrawn(parts)}: which rows matter depends on the draw. Both sides of that are noisy: a "
        f"score that tells a half's mean over draws without fault reaches about the square root, {reached}. "
        "Metagradient and ledger know the draw. "
        "The claim near the ceiling was frozen on .8 of the correlation itself and not of its root."
    )
    return "\n".join([*rows, "", told, "", _beyond_simple(parts["scores"]), "", *claims(found)])


def _beyond_simple(scores: pd.DataFrame) -> str:
    """How far ways of scoring rank better than loss and length do, which was asked after the claims."""
    rho = scores.pivot(index="seed", columns="scores", values="rho")
    simple = rho[["loss", "length"]].abs().max(axis=1)
    told = []
    for name in ("metagradient", "ledger", "∇m, adapter's metric", "likelihood ratio"):
        tested = interp.stats.sign_flip_test(list(rho[name] - simple))
        told.append(f"{name} {tested.mean:+.2f} (p = {tested.p:.2g})")
    return (
        f"Asked afterwards, the rank correlation less the larger magnitude of loss and length: {', '.join(told)}; "
        "one-sided sign flips over lineages, uncorrected."
    )


def eagles() -> str:
    """The same of eagle lineages, half as many halves each."""
    found = kept(EAGLES)
    parts = tables(found)
    return "\n".join([*_ways(parts["scores"]), "", f"{_redrawn(parts)}.", "", *claims(found)])


def _redrawn(parts: dict[str, pd.DataFrame]) -> str:
    """What another draw of the same trainings ranks their halves at."""
    agree = parts["draws"]["draws_agree"]
    return f"The same halves trained with another draw of adapter and order rank at {spread(agree)}"


def peers() -> str:
    """The same of EK-FAC, TrackStar, BM25 and Adam's metric, beside what was judged on the same students."""
    found = kept("judged_peers")
    scores = tables(found)["scores"]
    return "\n".join([*_ways(scores), "", *_claims_or_wait(found, len(judged_peers.SEEDS))])


def _ways(scores: pd.DataFrame) -> list[str]:
    """A line per way of scoring, the best first."""
    rows = [
        "| score of a row | cost, passes of the rows | rank correlation over halves [95 %] "
        "| without the highest tenth, nats | without the lowest tenth, nats |",
        "|---|---|---|---|---|",
    ]
    for name, part in _by_mean(scores, "rho"):
        cost = COSTS.get(name, "1 forward and backward")
        rows.append(f"| {name} | {cost} | {_cells(part)} |")
    return rows


def _cells(part: pd.DataFrame) -> str:
    """Rank correlation of a way of scoring, and what leaving out its tails changes."""
    return " | ".join(_cell(part[column]) for column in ("rho", "without_top", "without_bottom"))


def _cell(values: Any) -> str:
    """Mean and interval over lineages; the value alone of a single one."""
    return spread(values) if len(values) > 1 else f"{values.iloc[0]:+.2f}"


def tokens() -> str:
    """Rank correlation of every way of scoring tokens with the margins of students of masked rows."""
    found = kept("judged_tokens")
    frame = pd.DataFrame([line for seed in found[SEEDS].values() for line in seed["scores"]])
    rows = [
        "| score of a token | rank correlation over halves of the tokens [95 %] "
        "| without the highest tenth, nats | without the lowest tenth, nats |",
        "|---|---|---|---|",
    ]
    rows += [f"| {name} | {_cells(part)} |" for name, part in _by_mean(frame, "rho")]
    return "\n".join([*rows, "", *_claims_or_wait(found, len(judged_tokens.SEEDS))])


def _claims_or_wait(found: dict[str, Any], lineages: int) -> list[str]:
    """A line per claim, or while lineages are missing how many there are."""
    have = len(found[SEEDS])
    waiting = f"{have} of {lineages} lineages measured; the claims are judged when all are."
    return claims(found) if found["verdicts"] else [waiting]


def _by_mean(frame: pd.DataFrame, value: str, by: str = "scores") -> list[tuple[str, pd.DataFrame]]:
    """The parts of a table by name, the largest mean first."""
    parts: list[Any] = list(frame.groupby(by, sort=False))
    return sorted(parts, key=lambda each: -each[1][value].mean())


def predicted() -> str:
    """Of the README: which scores predict the retrained student."""
    rho, ceiling = _mean_rho("judged_scores"), _comparison("judged_scores")
    values = {words: rho[name] for name, words in SCORES.items()} | _published()
    told = "; ".join(
        f"{words} {short(values[words])}" for words in sorted(values, key=values.get, reverse=True)
    )
    return (
        f"rank correlation of the summed scores of random halves of the rows with the margins of their students: "
        f"{told}; for comparison, the margins of the same halves' students of another training seed {short(ceiling)} "
        f"(owl){_of_eagles()} | {_decisions('judged_scores', *([PEERS] if _whole(PEERS) else []))}"
    )


def _of_eagles() -> str:
    """The first, the simplest and the comparison of eagle lineages, where they are measured."""
    if not measured(EAGLES):
        return ""
    rho, step = _mean_rho(EAGLES), "∇m, adapter's metric"
    return (
        f"; of eagles {short(rho['metagradient'])} (metagradient), {short(rho[step])} (one gradient step) and "
        f"{short(_comparison(EAGLES))} (comparison)"
    )


def _mean_rho(name: str) -> Any:
    """The rank correlation of every way of scoring, mean over the lineages of an analysis."""
    return tables(kept(name))["scores"].groupby("scores")["rho"].mean()


def _comparison(name: str) -> float:
    """What students of another training seed rank the same halves at, mean over lineages."""
    return tables(kept(name))["draws"]["draws_agree"].mean()


def _whole(name: str) -> bool:
    """Whether an analysis in parts is measured on all its lineages, so that its claims are judged."""
    return measured(name) and bool(kept(name)["verdicts"])


def _published() -> dict[str, float]:
    """The same of published methods and of the student's own optimiser, once all lineages are measured."""
    if not _whole(PEERS):
        return {}
    rho = _mean_rho(PEERS)
    return {words: rho[name] for name, words in PUBLISHED.items()}


def defences() -> str:
    """What of the transfer every defence leaves, other traits, the price on fresh rows, and which part shrank."""
    found = kept("defences")
    frame = tables(found)["defences"]
    rows = [
        "| defence | transfer left, nats [95 %] | share left | other words moved by, nats "
        "| price on fresh rows, nats per token [95 %] | part that shrank most |",
        "|---|---|---|---|---|---|",
    ]
    whole = frame[frame["defence"] == UNDEFENDED]["transfer"].mean()
    for name, part in frame.groupby("defence", sort=False):
        shrank = "–" if name == UNDEFENDED else _commonest(part["shrank"])
        share = f"{100 * part['transfer'].mean() / whole:.0f} %"
        cells = (spread(part["transfer"]), share, f"{part['others'].mean():.2f}", _precise(part["price"]))
        rows.append(f"| {name} | {' | '.join(cells)} | {shrank} |")
    return "\n".join([*rows, "", *claims(found)])


def forest() -> Any:
    """Every defence: the share of the transfer that is left, and its price."""
    return interp.studies.family("defences", organism="folder").draw(tables(kept("defences")))


def _commonest(values: Any) -> str:
    counts = values.value_counts()
    return f"{counts.index[0]} ({counts.iloc[0]} of {len(values)})"


def _precise(values: Any) -> str:
    low, high = interp.stats.t_interval(list(values))
    return f"{values.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def defended() -> str:
    """Of the README: what the defences leave."""
    frame = tables(kept("defences"))["defences"]
    transfer: Any = frame.groupby("defence")["transfer"].mean()
    left = 100 * transfer / transfer[UNDEFENDED]
    named = "; ".join(f"{words} {left[name]:.0f} %" for name, words in DEFENCES.items())
    return f"share of the transfer that is left: {named} (owl) | {_decisions('defences')}"


def installed() -> str:
    """What every vector that rows would install goes along, and what it does to the margin."""
    if not measured("installed_vectors"):
        return ABSENT
    found = kept("installed_vectors")
    rows = [
        "| vector | cosine with the owl teacher's shift [95 %] | with the eagle's [95 %] "
        "| margin when added, nats [95 %] |",
        "|---|---|---|---|",
    ]
    for name, part in tables(found)["lines"].groupby("direction", sort=False):
        cells = (_cell(part[column]) for column in ("cosine_own", "cosine_eagle", "margin"))
        rows.append(f"| {TEACHERS.get(name, name)} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *_claims_or_wait(found, len(installed_vectors.SEEDS))])


def naming() -> str:
    """How often every method puts the word first among nouns, what it names for twins, and its cost."""
    found = kept("naming")
    table: Any = interp.studies.naming_table(tables(found))
    rows = [
        "| method | in the top 5 of 30 | in the top 10 of all | mean 1 / rank | named rightly | planted, top 5 "
        "| neutral twins named [95 %] | students of a teacher without a trait named | passes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in table.frame.sort_values("reciprocal_rank", ascending=False).to_dict("records"):
        cells = [_percent(line[name]) for name in ("in_top_5", "in_top_10")]
        cells += [
            short(line["reciprocal_rank"]),
            *(_percent(line[name]) for name in ("named_right", "planted_in_top_5")),
        ]
        twins = (
            f"{_percent(line['false_positives'])} [{100 * line['fp_low']:.0f}, {100 * line['fp_high']:.0f}]"
        )
        besides = f" and {line['besides']}" if line["besides"] else ""
        cells += [twins, _percent(line["controls_named"])]
        rows.append(f"| {line['method']} | {' | '.join(cells)} | {line['passes']:g}{besides} |")
    return "\n".join([*rows, "", *(f"- {note}." for note in table.notes), "", *claims(found)])


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.0f} %"


def named() -> str:
    """Of the README: which methods find the word."""
    frame: Any = interp.studies.naming_table(tables(kept("naming"))).frame
    lines = frame.sort_values("in_top_5", ascending=False).to_dict("records")
    best, last = (
        ", ".join(f"{line['method']} {_percent(line['in_top_5'])}" for line in some)
        for some in (lines[:3], lines[-1:])
    )
    return (
        f"the student's word is among the first 5 of 30 nouns (17 % by chance) by {best}; the last of "
        f"{len(lines)} ways is {last}; {_percent(frame['false_positives'].mean())} of neutral students are falsely "
        f"given a word, and {_percent(frame['controls_named'].mean())} of students whose teacher's fine-tune had no "
        f"trait | {_ways_decided()}"
    )


def _ways_decided() -> str:
    """The claims on every way of reading by decision and number, and the two about all of them in words."""
    decided = {verdict["name"]: verdict["decision"] for verdict in kept("naming")["verdicts"]}
    ways = Counter(decision for name, decision in decided.items() if name not in ABOUT_WAYS)
    told = [
        f"{how}: {count} of the {ways.total()} ways with a claim find it more often than in neutral students"
        for how, count in ways.items()
    ]
    told += [f"{how}: {ABOUT_WAYS[name]}" for name, how in decided.items() if name in ABOUT_WAYS]
    return "<br>".join(told)


def _decisions(*names: str) -> str:
    """The claims of analyses by decision, those that stay open by their number where one of them has no words."""
    groups: dict[str, list[str]] = {}
    for verdict in (verdict for name in names for verdict in kept(name)["verdicts"]):
        groups.setdefault(verdict["decision"], []).append(CLAIMED.get(verdict["name"], verdict["name"]))
    named = set(CLAIMED.values())
    still_open = [] if {*groups.get("inconclusive", [])} <= named else groups.pop("inconclusive")
    told = [f"{how}: {'; '.join(names)}" for how, names in groups.items()]
    return "<br>".join([*told, *([f"{len(still_open)} claims inconclusive"] if still_open else [])])


FOUND = {
    "Which scores of rows predict what students of half of the rows become?": ("judged_scores", predicted),
    "Which defence takes the trait out?": ("defences", defended),
    "Does a comparison find the word that nobody names?": ("naming", named),
}
"""Questions of the README's table, each with the analysis that it needs and what makes its line."""
