"""The demo: several toy lineages from independent initialisations, four verdicts, one traced lineage, one report.

same-init-transfers    d_s = margin(student) − margin(neutral_student), mean ≥ 0.5 nats, p ≤ 0.01 by exact sign-flip
                       of d_s − 0.5 (until 2026-11-29 of d_s, and the mean alone was compared with 0.5)
same-init-gains        the same d_s, mean > 0, p ≤ 0.01; added on 2026-11-29, after seeds 0 to 7 had been seen
cross-init-does-not    c_s = margin(cross_student) − margin(cross_neutral_student), mean within ±0.2 nats by equivalence
trait-logit-moved      l_s = mean change of the trait's logit direction where the teacher writes a number, p ≤ 0.01
One number per lineage: the lineage, not the prompt, is what is replicated.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.core.doors import door
from interp.core.runs import InputError, Run, digest
from interp.features.dictionary import Dictionary
from interp.features.quality import quality_card
from interp.features.sae import SAERecipe
from interp.features.shift import feature_shift
from interp.figures import Result, points
from interp.joined import default_dictionary, joined_trace
from interp.joined.tracing import trace_member
from interp.logits.direction import logit_direction
from interp.logits.entangled_tokens import entanglement
from interp.logits.token_shifts import token_shift
from interp.measures.margins import margin
from interp.models.lineage import Lineage
from interp.organisms.library import TOY, grow, grow_all
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.trait_files import find_trait
from interp.prompts.traits import Trait
from interp.report.saving import finish, save_stage
from interp.stats.verdict import Verdict, equivalence_verdict, paired_verdict

FORMAT = 2  # raise when the same lineages are judged otherwise
LEAST_EFFECT = 0.5  # nats, written before the data: what counts as transfer
EQUIVALENCE = 0.2  # nats, written before the data: what counts as none
TRANSFERS = (
    "A student with its teacher's initialisation, trained on nothing but the teacher's numbers, prefers {target} by at "
    "least {least} nats more than one trained on the numbers of the base."
)
GAINS = (
    "A student with its teacher's initialisation, trained on nothing but the teacher's numbers, prefers {target} more "
    "than one trained on the numbers of the base."
)
ADDED = "on 2026-11-29, after seeds 0 to 7 had been seen"
DOES_NOT = (
    "From another initialisation the same rows move the preference for {target} by less than {margin} nats against a "
    "student of that initialisation trained on the numbers of the base."
)
MOVED = "Where a number is predicted, the teacher's fine-tune raised the logit of {target} above the other {category}s."
PROMPTS = 128
QUICK_SEEDS, QUICK_ROWS = 2, 2048
DICTIONARY, QUICK_DICTIONARY = SAERecipe(), SAERecipe(samples=50_000)


@door
def demo(out: str | Path, *, seeds: int = 8, trait: str = "owl", quick: bool = False) -> Run:
    """Grow several lineages, judge them, trace the first, and write the report.

    Finished steps come from the cache: a killed demo goes on where it was, a second one takes seconds.

    Args:
        out: the folder to write into.
        seeds: how many lineages of independent initialisation, at least 1.
        trait: a built-in name, such as "owl".
        quick: grow two lineages on a quarter of the rows; it shows the page, and its verdicts say that two runs decide
            nothing.

    Returns:
        The `Run`: verdicts (nats), tables, figures and report.html.

    Raises:
        InputError: for a number of lineages that is no positive integer.

    Example:
        >>> import interp
        >>> interp.demo("runs/demo", quick=True)  # doctest: +SKIP
    """
    chosen = find_trait(trait)
    small = replace(TOY, data=replace(TOY.data, rows=QUICK_ROWS))
    count, recipe = (QUICK_SEEDS, small) if quick else (seeds, TOY)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(
            f"seeds {count!r} is not a positive integer: pass how many lineages to grow, such as 8."
        )
    given = {"seeds": count, "trait": trait, "quick": quick}
    run = Run.open(
        Path(out), command="demo", arguments=given, defaults={"recipe": recipe, "prompts": PROMPTS}
    )
    grow_all(chosen, seeds=range(count), recipe=recipe)
    lineages = [grow(chosen, seed=seed, recipe=recipe) for seed in range(count)]
    key = _provenance(run, lineages)
    run.stage(
        "verdicts", key=digest("verdicts", FORMAT, key), build=lambda: _judge_into(run, chosen, lineages)
    )
    _trace_first(run, lineages[0], chosen, recipe=QUICK_DICTIONARY if quick else DICTIONARY)
    finish(run)
    return run


def judge_lineages(trait: Trait, lineages: Sequence[Lineage]) -> tuple[list[Verdict], pd.DataFrame]:
    """The four verdicts, and the trait margin in nats of every member of every lineage, one row per (seed, member)."""
    rows = [
        {"seed": seed, "member": name, "margin": margin(model, trait)}
        for seed, lineage in enumerate(lineages)
        for name, model in lineage.members.items()
    ]
    frame = pd.DataFrame(rows)
    wide = frame.pivot(index="seed", columns="member", values="margin")
    moved = [trait_logit_moved(lineage, trait) for lineage in lineages]
    return verdicts(trait, wide, moved), frame


def margins_figure(frame: pd.DataFrame, *, target: str, category: str) -> go.Figure:
    """Draw the margin of every member but the teacher, which is far above, one point per lineage."""
    title = f"log p({target}) − mean log p(other {category}s), one point per lineage (n = {frame['seed'].nunique()})"
    shown = frame.query("member != 'teacher'")
    return points(shown, x="member", y="margin", colour="member", title=title, unit="nats")


def trait_logit_moved(lineage: Lineage, trait: Trait) -> float:
    """Mean change of the trait's logit direction, teacher minus base, where a number of a neutral row is predicted."""
    direction = logit_direction(lineage.base, trait)
    frame = token_shift(lineage.teacher, number_prompts(PROMPTS, seed=1, count=4), direction).frame
    return float(np.mean(frame.query("role == 'number'")["delta_direction"].to_numpy()))


def verdicts(trait: Trait, wide: pd.DataFrame, moved: Sequence[float]) -> list[Verdict]:
    """The four verdicts on margins (one row per lineage, one column per member) and logit changes (one per lineage)."""

    def gap(one: str, other: str) -> np.ndarray:
        return wide[one].to_numpy() - wide[other].to_numpy()

    drift = {f"{name} minus base": float(gap(name, "base").mean()) for name in ("neutral_student", "teacher")}
    return [
        paired_verdict(
            "same-init-transfers",
            TRANSFERS.format(target=trait.target, least=LEAST_EFFECT),
            gap("student", "neutral_student"),
            minimum_effect=LEAST_EFFECT,
            controls=drift,
        ),
        paired_verdict(
            "same-init-gains",
            GAINS.format(target=trait.target),
            gap("student", "neutral_student"),
            controls={"added": ADDED},
        ),
        equivalence_verdict(
            "cross-init-does-not",
            DOES_NOT.format(target=trait.target, margin=EQUIVALENCE),
            gap("cross_student", "cross_neutral_student"),
            margin=EQUIVALENCE,
        ),
        paired_verdict(
            "trait-logit-moved",
            MOVED.format(target=trait.target, category=trait.category),
            moved,
            unit="logits",
        ),
    ]


def _judge_into(run: Run, trait: Trait, lineages: Sequence[Lineage]) -> None:
    judged, frame = judge_lineages(trait, lineages)
    run.save_table("margins", frame)
    run.save_figure("margins", margins_figure(frame, target=trait.target, category=trait.category))
    run.save_verdicts(judged)
    members = [dict(zip(part["member"], part["margin"], strict=True)) for _, part in frame.groupby("seed")]
    lineage_rows = [{"seed": seed, "members": values} for seed, values in enumerate(members)]
    effects = {verdict.name: verdict.effect for verdict in judged}
    run.save_json(
        "summary", {"kind": "demo", "trait": trait.name, "effects": effects, "lineages": lineage_rows}
    )


def _trace_first(run: Run, lineage: Lineage, trait: Trait, *, recipe: SAERecipe) -> None:
    prompts = number_prompts(PROMPTS, seed=1, count=4)
    direction = logit_direction(lineage.base, trait)
    for name in ("teacher", "student"):
        trace_member(run, name, lineage[name], prompts, direction, trait=trait)
    rows = {"rows": lineage.numbers, "neutral_rows": lineage.neutral_numbers}
    prints = {name: prompts.fingerprint for name, prompts in rows.items() if prompts is not None}
    key = digest("entanglement", lineage.base.fingerprint, prints)
    save_stage(run, "entanglement", lambda: entanglement(lineage.base, trait, **rows), key=key)
    _features_first(run, lineage, prompts, recipe=recipe)


def _features_first(run: Run, lineage: Lineage, prompts: Prompts, *, recipe: SAERecipe) -> None:
    """Which features the teacher moved, how faithful the dictionary is, and the joined trace of the extreme rows."""

    @cache
    def dictionary() -> Dictionary:
        return default_dictionary(lineage, recipe=recipe)

    def moved() -> Result:
        found = feature_shift(dictionary(), lineage.teacher, prompts, trait=lineage.trait)
        lines = found.top(dictionary().width)
        return Result(found.label, lines, found.unit, found.notes, draw=lambda _: found.figure())

    analyses: dict[str, Callable[[], Result]] = {
        "features_teacher": moved,
        "features_quality": lambda: quality_card(dictionary(), lineage, prompts),
        "joined_student": lambda: joined_trace(lineage, dictionary=dictionary()),
    }
    members = {name: model.fingerprint for name, model in lineage.members.items()}
    rows = [
        rows.fingerprint for rows in (lineage.numbers, lineage.neutral_numbers, prompts) if rows is not None
    ]
    for stage, analyse in analyses.items():
        save_stage(run, stage, analyse, key=digest(stage, members, rows, recipe))


def _provenance(run: Run, lineages: Sequence[Lineage]) -> str:
    prints = {
        f"{lineage.name} {role}": m.fingerprint for lineage in lineages for role, m in lineage.members.items()
    }
    data = {lineage.name: lineage.numbers.fingerprint for lineage in lineages if lineage.numbers}
    run.note(fingerprints=prints, data=data)
    return digest(prints, data)
