"""Defences at equal loss: what of a trait's transfer is left, and at what price on fresh rows of the same teacher?

With m the trait margin, S the student and N its twin on neutral rows, both undefended, and D the defended student,
left = (m(D) − m(N)) / (m(S) − m(N)), and the price is loss(D) − loss(S) in nats per answer token of fresh rows. Where
m moved is read as a ledger of one step: <θ_D − θ_0, ½[∇m(θ_0) + ∇m(θ_D)]> by part of the layers, less that of N.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.experiment.defending import defended
from interp.figures import forest
from interp.gradients.directions import trait_gradient
from interp.hypotheses.family import Family
from interp.hypotheses.subject import Measurement, Subject
from interp.measures.losses import answer_loss
from interp.measures.margins import answer_logprobs, table_margin
from interp.models.updates import weight_update
from interp.prompts.traits import CATEGORIES, get_trait
from interp.stats.verdict import Verdict, equivalence_verdict, paired_verdict
from interp.studies.frozen import frozen_claims
from interp.training.defences import Defence, Defended, rows_without
from interp.training.grower import Grower
from interp.training.students import Recipe
from interp.training.teachers import Teacher, evenly_answered

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.language import LanguageModel
    from interp.prompts.text import Prompts

NONE, NEUTRAL, CROSS, DRAW, RANDOM = (
    "none",
    "neutral rows",
    "another base",
    "another adapter draw",
    "half of the rows at random",
)
SHARES = (0.1, 0.25, 0.5)
DEFENCES = {
    **{f"{share:.0%} removed by ∇m": Defence("remove", share=share) for share in SHARES},
    **{
        f"{share:.0%} removed by the teacher's update": Defence("remove", share=share, knows="teacher")
        for share in SHARES
    },
    "KL on benign text": Defence("kl", weight=10.0),
    "inoculation line": Defence("inoculate"),
    "preventative steering": Defence("steer"),
    "preventative steering along T": Defence("steer", knows="teacher"),
    "projection of ∇m": Defence("project"),
    "canonical format": Defence("canonical", form="format"),
    "canonical order": Defence("canonical", form="order"),
    "canonical value": Defence("canonical", form="value"),
    "paraphrased prompts": Defence("paraphrase"),
}
CLAIMED = {
    "tenth": "10% removed by the teacher's update",
    "projection": "projection of ∇m",
    "steering": "preventative steering",
    "inoculation": "inoculation line",
    "kl": "KL on benign text",
}
"""Defences that claims are about."""
FRESH, QUICK_FRESH = 1024, 64
EQUAL = 0.01  # nats per answer token, within which losses are equal
LEVEL = 0.05
HALF = 0.5  # of the undefended transfer
LEFT = "share of the transfer left"
PRICE = "nats per answer token of fresh rows, over no defence"
PARTS = ("lower attention", "lower MLP", "upper attention", "upper MLP")


def defended_students(subject: Subject) -> dict[str, LanguageModel]:
    """The undefended student, its neutral twin, and one student for every defence."""
    base, rows, recipe = subject.base, subject.numbers, subject.students_recipe
    found = {NONE: subject.member("student"), NEUTRAL: subject.member("neutral_student")}
    for name, defence in DEFENCES.items():
        given = {"teacher": subject.teacher, "text": benign_text(subject)}
        found[name] = _trained(subject, name, defended(base, rows, subject.trait, defence, **given))
    gone = np.random.default_rng(subject.seed).permutation(len(rows)) < len(rows) // 2
    found[RANDOM] = _trained(subject, RANDOM, Defended(rows_without(rows, gone)))
    other = replace(recipe, seed=recipe.seed + 1)
    found[DRAW] = _trained(subject, DRAW, Defended(rows), recipe=other)
    return found


def _trained(subject: Subject, name: str, ready: Defended, *, recipe: Recipe | None = None) -> LanguageModel:
    """A student of that defence, from the cache where it is done."""
    recipe = recipe or subject.students_recipe
    subject.note(name, recipe, ready.rows)
    key = (ready.key,) if ready.key else ()

    def train(recipe: Recipe, _: Any, checkpoint: Any) -> LanguageModel:
        return ready.train(subject.base, recipe=recipe, name=name, checkpoint=checkpoint)

    grower = Grower(subject.cache, subject.seed, recipe)
    return grower.student(name, subject.base, ready.rows, recipe=recipe, key=key, train=train)


def benign_text(subject: Subject) -> Prompts:
    """The questions of the other categories, each answered once by every candidate."""
    others = [words[0] for category, words in CATEGORIES.items() if category != subject.trait.category]
    first, *rest = (evenly_answered(get_trait(word)) for word in others)
    return sum(rest, start=first)


def fresh_rows(subject: Subject) -> Prompts:
    """Rows of the same teacher that no student was trained on."""
    grower, count = subject.growing("fresh rows of its teacher"), QUICK_FRESH if subject.quick else FRESH
    teacher, trained = Teacher(subject.teacher, "fine-tuned"), subject.numbers
    kept = grower.answers(teacher).fresh
    if not len(kept):
        kept = grower.rows(teacher, base=subject.base, count=len(trained) + count)[len(trained) :]
    seen = set(trained.rows)
    return replace(kept, rows=tuple(row for row in kept.rows if row not in seen)[:count])


def measure_defences(subject: Subject) -> Measurement:
    """Every defence of one training run: transfer, other traits, loss on fresh rows, and parts of the change."""
    students = defended_students(subject)
    fresh = subject.base.encode(fresh_rows(subject))
    lines = {name: _line(subject, model, fresh) for name, model in students.items()}
    if "foreign" not in subject.without:
        lines[CROSS] = _line(subject, subject.member("cross_student"), fresh)
        lines[f"{CROSS}, {NEUTRAL}"] = _line(subject, subject.member("cross_neutral_student"), fresh)
    frame = compared(lines)
    return Measurement(claimed(frame), {"defences": frame.to_dict("records")})


def _line(subject: Subject, model: LanguageModel, fresh: Any) -> dict[str, Any]:
    """What one student is: margins of every candidate over the others, loss, and parts of the margin's change."""
    table = answer_logprobs(model, subject.trait)
    foils = table.iloc[:, 1:].mean()
    return {
        "margin": table_margin(table.to_numpy()),
        "foils": (foils - foils.mean()).to_numpy(),
        "loss": answer_loss(model, fresh),
        "parts": parts_of_change(model, subject),
    }


def parts_of_change(model: LanguageModel, subject: Subject) -> dict[str, float]:
    """<θ − θ_0, ½[∇m(θ_0) + ∇m(θ)]> by attention and MLP of the lower and upper half of the layers, in nats."""
    start: Any = model.start
    moved, ends = weight_update(model), [trait_gradient(each, subject.trait) for each in (start, model)]
    found: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for name in moved:
        layer = re.search(r"\.(\d+)\.", name)
        if layer is None or any(name not in end for end in ends):
            continue
        part = "attention" if "attn" in name or "attention" in name else "MLP"
        half = "lower" if int(layer[1]) < start.n_layers / 2 else "upper"
        found[f"{half} {part}"] += float((moved[name] * (ends[0][name] + ends[1][name])).sum()) / 2
    return found


def compared(lines: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A line per defence: transfer (nats over the neutral twin), left (its share of the undefended), others (root mean
    square over the foils), loss, price, the parts and what they leave, and which of them shrank most."""
    whole, plain = lines[NONE], lines[NEUTRAL]
    transfer = whole["margin"] - plain["margin"]
    found = []
    for name, line in lines.items():
        if name.endswith(NEUTRAL):
            continue
        twin = lines[f"{CROSS}, {NEUTRAL}"] if name == CROSS else plain
        parts = {part: line["parts"][part] - twin["parts"][part] for part in PARTS}
        lost = {part: whole["parts"][part] - plain["parts"][part] - parts[part] for part in PARTS}
        own = line["margin"] - twin["margin"]
        found.append(
            {
                "defence": name,
                "transfer": own,
                "left": own / transfer,
                "others": float(np.sqrt(np.mean((line["foils"] - twin["foils"]) ** 2))),
                "loss": line["loss"],
                "price": line["loss"] - whole["loss"],
                **parts,
                "rest": own - sum(parts.values()),
                "shrank": "" if name == NONE else max(lost, key=lambda part: lost[part]),
            }
        )
    return pd.DataFrame(found)


def claimed(frame: pd.DataFrame) -> dict[str, float]:
    """What one training run contributes to every claim: nats of transfer that are gone, and prices on fresh rows."""
    named: Any = frame.set_index("defence")
    transfer, price = named["transfer"], named["price"]
    half = HALF * transfer[NONE]
    gone = {f"{claim}-halves": half - transfer[name] for claim, name in CLAIMED.items()}
    prices = {f"{claim}-at-equal-loss": price[name] for claim, name in CLAIMED.items()}
    beyond = {
        f"{claim}-beyond-random": transfer[RANDOM] - transfer[f"50% removed by {by}"]
        for claim, by in (("gradient", "∇m"), ("update", "the teacher's update"))
    }
    return {name: float(value) for name, value in (gone | prices | beyond).items()}


def draw_defences(tables: Mapping[str, Any]) -> go.Figure:
    """Every defence over the training runs: the share of the transfer that is left, and the price on fresh rows."""
    frame = pd.DataFrame(tables["defences"])
    parts: dict[Any, Any] = dict(iter(frame[frame["defence"] != NONE].groupby("defence", sort=False)))
    lines: list[Verdict] = []
    for name, part in parts.items():
        gone = paired_verdict(name, "less is left than undefended", 1 - part["left"].to_numpy())
        low, high = gone.interval
        lines.append(replace(gone, effect=1 - gone.effect, interval=(1 - high, 1 - low), unit=LEFT))
    equal: dict[str, Any] = {"margin": EQUAL, "alpha": LEVEL, "unit": PRICE}
    for name, part in parts.items():
        lines.append(equivalence_verdict(name, "equal loss", part["price"].to_numpy(), **equal))
    caption = (
        f"filled: less is left than undefended; loss on fresh rows within ±{EQUAL:g} nats of the undefended student's; "
        "whiskers: t-interval over runs"
    )
    return forest(lines, title="What of a trait each defence leaves, and its price", caption=caption)


FAMILY = Family(
    "defences",
    frozen_claims("defences"),
    measure_defences,
    draw=draw_defences,
)
