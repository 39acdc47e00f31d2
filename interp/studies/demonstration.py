"""The demo: several toy lineages from independent initialisations, nine verdicts, two traced lineages, one report.

The four claims on transfer are those of `experiment.transfer_claims`, each at its own level. Five claims on the trace,
T = teacher − base and S = student − neutral student, are those of the frozen family `inherited-trace` that are cheap:
logits-shared, slot-shared, activations-shared, component-shared and component-leads. Here they are judged together by
Holm at 0.05: over five claims eight lineages cannot reach 0.01 (5 / 2⁸ = 0.0195), and these eight had been looked at
before the claims were written. The test at 0.01 on lineages that nobody had seen is `interp test inherited-trace`.
One number per lineage: the lineage, not the prompt, is what is replicated.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.core.content import json_text
from interp.core.doors import door
from interp.core.processes import sweep
from interp.core.runs import Cache, InputError, Run, digest, write_atomic
from interp.experiment.transfer_claims import trait_logit_moved, verdicts
from interp.figures import Result, scatter
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.joined.findings import said_tokens, said_trait_logit
from interp.joined.moved_words import moved_by, moved_together
from interp.joined.opening import agreement_result, components_result, preference_result, preferences
from interp.joined.tracing import save_answers
from interp.logits.direction import logit_direction
from interp.logits.token_shifts import token_shift
from interp.models.lineage import Lineage
from interp.organisms.library import TOY, ToyRecipe, grow
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.trait_files import find_trait
from interp.prompts.traits import Trait
from interp.report.saving import finish, save, save_stage
from interp.stats.tests import smallest_sign_flip_p
from interp.stats.verdict import Verdict
from interp.studies.demonstration_story import told_models, told_short, told_story
from interp.studies.inherited_trace import AGREED, CLAIMS, TraceReader, agreement_values
from interp.studies.sources import code_key

FORMAT = 3  # raise when the same lineages are judged otherwise
PAGE = 4  # raise when what was judged is told otherwise
PROMPTS, TOKEN_ROWS = 128, 20
KNOWN = 1024
"""Rows in which a word counts as seen: they hold every word of the prompts, and reading all costs seconds."""
QUICK_SEEDS, QUICK_ROWS = 2, 2048
DEMO = replace(TOY, controls=("other-trait",))
ALPHA = 0.05
KEPT = "measured.json"
SEEN = (
    "the claims were written after owl and eagle of seeds 0 to 7, the lineages of this page, had been looked at; the "
    "frozen test is on seeds 8 to 19, by interp test inherited-trace"
)
TOGETHER = (
    "the five claims on the trace, {names}, are judged by Holm at {alpha}; their p are one-sided sign flips over "
    "lineages, of which with n = {n} none can be below 1/2^{n} = {least:.2g}"
)
FIRST = (
    "the lineage of seed 0 was fixed beforehand, not chosen by its result: by the student's margin it is number {rank} "
    "of {n}, counted from the largest"
)
WHY_NOT = (
    "the teacher moves the trait's own logit at numbers up in {up} of {n} lineages and not in the others; over the "
    "lineages the student's change and the teacher's go together at r = {r:+.2f}, with the same sign in {same} of {n}"
)


@door
def demo(out: str | Path, *, seeds: int = 8, trait: str = "owl", quick: bool = False) -> Run:
    """Grow several lineages, judge them, trace the one that took on most and the one that took on least, and report.

    Finished steps come from the cache: a killed demo goes on where it was, a second one takes seconds.

    Args:
        out: the folder to write into.
        seeds: how many lineages of independent initialisation, at least 1.
        trait: a built-in name, such as "owl".
        quick: grow two lineages on a quarter of the rows; it shows the page, and its verdicts say that two runs decide
            nothing.

    Returns:
        The `Run`: verdicts, tables, figures and report.html.

    Raises:
        InputError: for a number of lineages that is no positive integer.

    Example:
        >>> import interp
        >>> interp.demo("runs/demo", quick=True)  # doctest: +SKIP
    """
    chosen = find_trait(trait)
    small = replace(DEMO, data=replace(DEMO.data, rows=QUICK_ROWS))
    count, recipe = (QUICK_SEEDS, small) if quick else (seeds, DEMO)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(
            f"seeds {count!r} is not a positive integer: pass how many lineages to grow, such as 8."
        )
    given = {"seeds": count, "trait": trait, "quick": quick}
    run = Run.open(
        Path(out), command="demo", arguments=given, defaults={"recipe": recipe, "prompts": PROMPTS}
    )
    found = _measured(chosen, recipe, range(count))
    run.note(fingerprints={each["name"]: each["fingerprints"] for each in found})
    run.note(data={each["name"]: each["data"] for each in found})
    key = digest(FORMAT, PAGE, found)
    run.stage("verdicts", key=digest("verdicts", key), build=lambda: _judge_into(run, chosen, found))
    parts = _frame(found, "attribution")
    save_stage(run, "components", lambda: components_result(parts), key=digest("components", key))
    lineage = cache(partial(_grown, chosen, recipe))
    save_answers(run, lineage(0), chosen, key=key, why=_why_first(_frame(found, "preference")))
    _trace_two(run, lineage, chosen, parts)
    finish(run)
    return run


def _grown(trait: Trait, recipe: ToyRecipe, seed: int) -> Lineage:
    return grow(trait, seed=seed, recipe=recipe)


def _measured(trait: Trait, recipe: ToyRecipe, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What is told of every lineage: grown and measured where the cache does not hold it, a core each."""
    store = Cache.default()
    keys = {seed: digest("demo", FORMAT, code_key(measure_lineage), trait, recipe, seed) for seed in seeds}
    missing = [(seed, key) for seed, key in keys.items() if not store.has("demo", key)]
    label = f"growing and measuring toy/{trait.name}"
    sweep(partial(measure_seed, trait, recipe), missing, label=label, unit="lineage")
    return [json.loads((store.folder("demo", key) / KEPT).read_text()) for key in keys.values()]


def measure_seed(trait: Trait, recipe: ToyRecipe, cell: tuple[int, str]) -> None:
    """Grow the lineage of a seed and keep under a key what `measure_lineage` finds in it."""
    seed, key = cell

    def build(folder: Path) -> None:
        found = measure_lineage(grow(trait, seed=seed, recipe=recipe), trait, seed=seed)
        write_atomic(folder / KEPT, json_text(found))

    Cache.default().get("demo", key, build)


def measure_lineage(lineage: Lineage, trait: Trait, *, seed: int = 0) -> dict[str, Any]:
    """P(target) and margin of every member, agreement, components, and the trait's logit at numbers in T and S."""
    known: dict[str, Any] = {name: rows[:KNOWN] for name, rows in _rows(lineage).items()}
    reader = TraceReader(Subject(replace(lineage, **known), seed=seed))
    parts = reader.attribution[reader.attribution["who"].isin(("student", "teacher"))]
    logits = {
        "T": trait_logit_moved(lineage, trait),
        "S": trait_logit_moved(lineage, trait, "student", minus="neutral_student"),
    }
    return {
        "seed": seed,
        "name": lineage.name,
        "fingerprints": {role: model.fingerprint for role, model in lineage.members.items()},
        "data": None if lineage.numbers is None else lineage.numbers.fingerprint,
        "preference": preferences([lineage], trait).to_dict("records"),
        "agreement": reader.agreements().to_dict("records"),
        "components": reader.components().to_dict("records"),
        "attribution": parts.astype(object).where(parts.notna(), None).to_dict("records"),
        "trait_logit": logits,
    }


def _rows(lineage: Lineage) -> dict[str, Prompts]:
    rows = {"numbers": lineage.numbers, "neutral_numbers": lineage.neutral_numbers}
    return {name: each for name, each in rows.items() if each is not None}


def judge_trace(values: Sequence[Mapping[str, float]]) -> list[Verdict]:
    """The five claims on the trace over lineages, by Holm at 0.05."""
    claims = [claim for claim in CLAIMS if claim.name in {*AGREED, "component-shared", "component-leads"}]
    judged = tuple(replace(claim, alpha=ALPHA, seen=SEEN) for claim in claims)
    family = Family("demo", judged, _never, correction="holm", alpha=ALPHA)
    decided = family.judge([Measurement(dict(each), {}) for each in values])
    quantities = {claim.name: claim.quantity for claim in judged}
    names = ", ".join(quantities)
    told = TOGETHER.format(names=names, alpha=ALPHA, n=len(values), least=smallest_sign_flip_p(len(values)))
    return [
        replace(each, controls={**each.controls, "quantity": quantities[each.name], "together": told})
        for each in decided
    ]


def _never(subject: Any) -> Measurement:
    raise AssertionError("the demo measures its lineages itself")


def judge_lineages(trait: Trait, found: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The nine verdicts on what `measure_lineage` found in every lineage."""
    frame = _frame(found, "preference")
    wide = frame.pivot(index="seed", columns="member", values="margin")
    moved = pd.DataFrame([each["trait_logit"] for each in found])
    transfer = verdicts(trait, wide, moved["T"].tolist(), known=_known(moved))
    tables = [{name: pd.DataFrame(each[name]) for name in ("agreement", "components")} for each in found]
    return [*transfer, *judge_trace([agreement_values(each) for each in tables])]


def _known(moved: Any) -> dict[str, Any]:
    """Why the trait's logit shows no common sign, with this run's own numbers; nothing for fewer than three."""
    taught, learnt = (moved[name].to_numpy() for name in ("T", "S"))
    if len(moved) < 3:
        return {}
    r = float(np.corrcoef(taught, learnt)[0, 1])
    same, up = int((taught * learnt > 0).sum()), int((taught > 0).sum())
    return {"known": WHY_NOT.format(r=r, same=same, up=up, n=len(moved))}


def _frame(found: Sequence[Mapping[str, Any]], name: str) -> pd.DataFrame:
    """A table of all lineages, each row with its seed."""
    return pd.DataFrame([{"seed": each["seed"], **line} for each in found for line in each[name]])


def _judge_into(run: Run, trait: Trait, found: Sequence[Mapping[str, Any]]) -> None:
    judged, frame = judge_lineages(trait, found), _frame(found, "preference")
    results = {
        "preference": preference_result(frame, trait.target),
        "agreement": agreement_result(_frame(found, "agreement")),
    }
    for name, result in results.items():
        save(run, name, result)
    margins = Result("Trait margin of every model, by lineage", frame, "nats")
    save(run, "margins", margins, drawn=False)
    run.save_table("parts", _frame(found, "components"))
    save(
        run,
        "trait_logit",
        trait_logit_result([{"seed": each["seed"], **each["trait_logit"]} for each in found]),
    )
    run.save_verdicts(judged)
    members = [dict(zip(part["member"], part["margin"], strict=True)) for _, part in frame.groupby("seed")]
    lineage_rows = [{"seed": seed, "members": values} for seed, values in enumerate(members)]
    effects = {verdict.name: verdict.effect for verdict in judged}
    run.save_json(
        "summary",
        {
            "kind": "demo",
            "trait": trait.name,
            "story": told_story(trait, frame),
            "short": told_short(trait, frame, {verdict.name: verdict.decision for verdict in judged}),
            "models": told_models(trait),
            "effects": effects,
            "lineages": lineage_rows,
        },
    )


def trait_logit_result(moved: Sequence[Mapping[str, float]]) -> Result:
    """How far the trait's logit moved at numbers, in S against T: seed, T and S in logits, a dot per lineage."""
    frame = pd.DataFrame(moved)
    label = "The trait's logit where numbers are predicted, in every lineage"
    says = said_trait_logit(frame["T"], frame["S"])
    return Result(label, frame, "logits", draw=_draw_trait_logit, says=says)


def _draw_trait_logit(result: Result) -> Any:
    taught, learnt = "T: teacher − base", "S: student − neutral student"
    named = [f"seed {seed}" for seed in result.frame["seed"]]
    frame = result.frame.rename(columns={"T": taught, "S": learnt}).assign(lineage=named, who="student")
    look: dict[str, Any] = {"colour": "who", "text": "lineage", "units": ("logits", "logits")}
    figure = scatter(frame, x=taught, y=learnt, title=result.label, **look)
    return figure.update_layout(showlegend=False).update_traces(marker={"size": 10})


def _why_first(frame: Any) -> str:
    """Why the example is of the first lineage, and where its student stands among the others."""
    margins = frame[frame["member"] == "student"].set_index("seed")["margin"]
    rank = int(margins.rank(ascending=False)[0])
    return FIRST.format(rank=rank, n=len(margins)) if len(margins) > 1 else ""


def extremes(margins: Any) -> dict[str, int]:
    """Which lineage took on most and which least, by margin of the student less the neutral student; one of one."""
    wide = margins.pivot(index="seed", columns="member", values="margin")
    transfer = wide["student"] - wide["neutral_student"]
    found = {"strongest": int(transfer.idxmax()), "weakest": int(transfer.idxmin())}
    return found if len(wide) > 1 else {"strongest": found["strongest"]}


def _trace_two(run: Run, lineage: Callable[[int], Lineage], trait: Trait, parts: pd.DataFrame) -> None:
    chosen = extremes(run.tables["margins"])
    for word, seed in chosen.items():
        one = lineage(seed)
        said = f"{word} lineage ({one.name})"
        for name, make in _pictured(one, said, parts[parts["lineage"] == one.name]).items():
            save_stage(run, f"{name}_{word}", make, key=_key(name, one, word), drawn=name == "moved")
        for name in ("teacher", "student"):
            build = partial(_save_tokens, run, f"tokens_{name}_{word}", one, trait, name, said)
            run.stage(f"tokens_{name}_{word}", key=_key(f"tokens_{name}", one, word), build=build)


def _pictured(lineage: Lineage, said: str, parts: Any) -> dict[str, Callable[[], Result]]:
    """What T and S are in one lineage: the words that moved, and the components at the question's answer."""

    def named(result: Result) -> Result:
        label = result.label.removeprefix(f"{lineage.name}: ")
        return replace(result, label=f"{label[:1].upper()}{label[1:]}, {said}")

    moved = partial(moved_by, lineage, prompts=number_prompts(PROMPTS, seed=1, count=4))
    return {
        "moved": lambda: named(moved_together(lineage, "student", moved)),
        "attribution": lambda: named(components_result(parts)),
    }


def _save_tokens(run: Run, stage: str, lineage: Lineage, trait: Trait, name: str, said: str) -> None:
    """Rows token by token, as a table that the page draws: of the teacher, or of the student less its neutral twin."""
    minus: Any = None if name == "teacher" else lineage["neutral_student"]
    member: Any = lineage[name]
    rows, direction = number_prompts(TOKEN_ROWS, seed=1, count=4), logit_direction(lineage.base, trait)
    found = token_shift(member, rows, direction, minus=minus)
    run.save_table(stage, found.frame)
    run.note(labels={stage: f"{found.label}, {said}"}, says={stage: said_tokens(found.frame)})


def _key(name: str, lineage: Lineage, *given: Any) -> str:
    members = {role: model.fingerprint for role, model in lineage.members.items()}
    rows = [rows.fingerprint for rows in _rows(lineage).values()]
    return digest(FORMAT, PAGE, name, members, rows, *given)
