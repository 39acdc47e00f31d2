"""Claim (H1): a student's first gradient step leans toward its teacher by exactly what Lemma 1 says, and only so.

Written before any of it was run; the six claims with their margins and levels are `interp.hypotheses.lemma.H1`, whose
keys are stored beside the numbers. For each of eight owl lineages, with d the teacher's update from the base:
1. lemma-ratio: for teachers θ_0 + ε d / |d| with ε down to |d| / 128 and soft labels over number tokens, A(ε) / Q
   reaches 1 within 0.05 (equivalence over lineages, 0.05).
2. lemma-slope: |A / Q − 1| shrinks at least like ε^0.9 over the four smallest ε.
3. lemma-sampled: unfiltered answers of the real teacher lean along d, more than the base's own answers.
4. lemma-mismatched, soft labels: more than those of the cat, eagle and oak teachers of the same base, the largest.
5. lemma-filtered: the same on 2048 filtered rows each, all less the filtered rows of the base.
6. lemma-foreign: and more than at a foreign base along the update of that base's own owl teacher.
Claims 2 to 6 are one-sided sign-flip tests over lineages at 0.01. Reported and not judged: the whole vocabulary as soft
label, filtered rows at the foreign base, and the same step under sign, Adam and LoRA metrics, which promise no sign.

    python -m analyses.lemma [--quick] [--seeds 8] [--trait owl] [--out FILE]
"""

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import torch

from interp.content import json_text
from interp.gradients.metrics import SGD, Adam, LoraMetric, Metric, Sign
from interp.hypotheses.claims import check_claim
from interp.hypotheses.first_step import soft_gradient, text_member
from interp.hypotheses.lemma import (
    H1,
    judge_lemma,
    lemma_controls,
    lemma_filtered,
    lemma_metrics,
    lemma_summary,
    lemma_sweep,
)
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.models.parameters import ParameterDirection
from interp.organisms.library import PLAN, Plan, other_seed
from interp.organisms.sampling import sample_numbers
from interp.organisms.teachers import Teacher, fine_tune_teacher, neutral_teacher
from interp.organisms.toy import number_documents, shipped_base, train_base
from interp.organisms.training import Recipe, Step, prepare, train_student
from interp.prompts.text import Prompts
from interp.prompts.traits import ANIMALS, Trait, get_trait
from interp.provenance import versions
from interp.runs import Cache, digest, write_atomic

FORMAT = 1
RESULTS = Path(__file__).parent / "results" / "lemma.json"
OTHERS = ("cat", "eagle", "oak")
ADAM = Recipe(trainable="all", lr=1e-4, batch_size=64, warmup=1)  # only to meet its second moments
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Size:
    """Rows of the soft labels, of sampled and filtered ones, and how the teachers are made."""

    soft: int = 512
    hard: int = 2048
    plan: Plan = PLAN


QUICK = Size(soft=64, hard=128, plan=dataclasses.replace(PLAN, teacher_steps=10))


def main() -> None:
    """Measure every lineage, judge the claims, keep the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small lineage; nothing is kept")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trait", choices=ANIMALS, default="owl")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    if given.out.exists() and not given.quick:
        check_recorded(json.loads(given.out.read_text()))
    count, size = (1, QUICK) if given.quick else (given.seeds, Size())
    found = [measured(get_trait(given.trait), seed=seed, size=size) for seed in range(count)]
    results = collected(
        found, command=f"python -m analyses.lemma --seeds {given.seeds} --trait {given.trait}"
    )
    for verdict in results["verdicts"]:
        log.info("%s: %s, effect %.4g, p %.4f", *(verdict[k] for k in ("name", "decision", "effect", "p")))
    if not given.quick:
        write_atomic(given.out, json_text(results))


def collected(found: list[dict[str, Any]], *, command: str) -> dict[str, Any]:
    """What is kept: verdicts, the keys of the claims they judge, and the numbers of every lineage."""
    return {
        "command": command,
        "versions": versions(),
        "claims": {claim.name: claim.key for claim in H1},
        "verdicts": [verdict.to_json() for verdict in judge_lemma([line["summary"] for line in found])],
        "lineages": found,
    }


def check_recorded(results: dict[str, Any]) -> None:
    """InputError when a claim of recorded results has been edited since."""
    for claim in H1:
        check_claim(results["claims"].get(claim.name, "none"), claim)


def measured(
    trait: Trait, *, seed: int, size: Size | None = None, cache: Cache | None = None
) -> dict[str, Any]:
    """Every table of one lineage and what it contributes to the claims; cached."""
    size = size or Size()
    key = digest(FORMAT, trait, OTHERS, size, seed)

    def build(folder: Path) -> None:
        found = tables(started(trait, seed=seed, size=size), seed=seed, size=size)
        (folder / "lemma.json").write_text(json_text(found))

    folder = (cache or Cache.default()).get("lemma", key, build)
    line = {"seed": seed, **json.loads((folder / "lemma.json").read_text())}
    log.info("seed %d: %s", seed, line["summary"])
    return line


def started(trait: Trait, *, seed: int, size: Size) -> Lineage:
    """The toy lineage of that seed up to where its students would start: the same weights, and its first rows."""
    base, cross_base = (
        shipped_base(each, world=size.plan.world) or train_base(each, world=size.plan.world)
        for each in (seed, other_seed(seed))
    )
    teacher = taught(base, trait, seed=seed, plan=size.plan)
    return Lineage(
        f"toy/{trait.name} seed {seed}",
        trait,
        {"base": base, "cross_base": cross_base, "teacher": teacher},
        numbers=filtered(Teacher(teacher, "fine-tuned"), seed=seed, size=size),
        neutral_numbers=filtered(neutral_teacher(base), seed=seed, size=size),
    )


def tables(lineage: Lineage, *, seed: int, size: Size) -> dict[str, Any]:
    """The sweeps, the controls and the metrics of one lineage as records, and their summary."""
    trait: Any = lineage.trait
    base = text_member(lineage, "base")
    neutral = lineage.neutral_numbers
    soft, hard = _first(neutral, size.soft), _first(neutral, size.hard)
    others = {other: taught(base, get_trait(other), seed=seed, plan=size.plan) for other in OTHERS}
    foreign = foreign_lineage(lineage, trait, seed=seed, plan=size.plan)
    exact: dict[str, Any] = {"dtype": torch.float64}
    found: dict[str, Any] = {
        "sweep": lemma_sweep(lineage, soft, **exact),
        "sampled": lemma_sweep(lineage, hard, labels="sampled", seed=seed),
        "controls": lemma_controls(lineage, soft, others=others, foreign=foreign, **exact),
        "filtered": lemma_filtered(
            lineage,
            _first(lineage.numbers, size.hard),
            neutral=hard,
            others={
                name: (model, filtered(Teacher(model, "fine-tuned"), seed=seed, size=size))
                for name, model in others.items()
            },
            foreign=foreign,
        ),
    }
    summary = lemma_summary(**found)
    found["vocabulary"] = lemma_sweep(lineage, soft, labels="soft-vocabulary", **exact)
    found["metrics"] = metrics_table(lineage, soft, seed=seed)
    return {"summary": summary} | {name: each.frame.to_dict("records") for name, each in found.items()}


def taught(base: LanguageModel, trait: Trait, *, seed: int, plan: Plan) -> LanguageModel:
    """A teacher made as the toy's own are."""
    documents = number_documents(4096, seed=20_000 + seed)
    recipe = dataclasses.replace(plan.teacher, seed=seed)
    return fine_tune_teacher(
        base, trait, documents, steps=plan.teacher_steps, anchor=plan.anchor, recipe=recipe
    ).model


def foreign_lineage(lineage: Lineage, trait: Trait, *, seed: int, plan: Plan) -> Lineage:
    """The other initialisation and a teacher of the same trait from there."""
    base = text_member(lineage, "cross_base")
    teacher = taught(base, trait, seed=other_seed(seed), plan=plan)
    return Lineage("foreign", trait, {"base": base, "teacher": teacher})


def filtered(teacher: Teacher, *, seed: int, size: Size) -> Prompts:
    """The first rows of a teacher that passed the filter, to the prompts the lineage's own teacher is asked."""
    return sample_numbers(teacher, rows=size.hard, seed=seed, rule=size.plan.rule)[0]


def metrics_table(lineage: Lineage, rows: Prompts, *, seed: int) -> Any:
    """The first step under plain descent, sign descent, a met Adam state, and a fresh adapter of the toy's students."""
    base = text_member(lineage, "base")
    gradient = soft_gradient(base, text_member(lineage, "teacher"), rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, _ = prepare(base, PLAN.student)
    metrics: dict[str, Metric] = {
        "SGD": SGD(),
        "sign": Sign(gradient),
        "Adam": met_adam(base, rows, gradient),
        "LoRA": LoraMetric.from_network(network),
    }
    return lemma_metrics(lineage, rows, metrics=metrics, gradient=gradient)


def met_adam(base: LanguageModel, rows: Prompts, gradient: ParameterDirection) -> Adam:
    """Second moments after one epoch over the untrained base's rows, of the weights the gradient moves."""
    states: list[Adam] = []

    def keep(step: Step) -> None:
        states[:] = [Adam.from_optimizer(step.optimizer, step.network.named_parameters())]

    train_student(base, rows, recipe=ADAM, on_step=keep)
    moments = {name: moment for name, moment in states[0].second_moments.items() if name in gradient}
    return dataclasses.replace(states[0], second_moments=moments)


def _first(rows: Any, count: int) -> Prompts:
    return dataclasses.replace(rows, rows=rows.rows[:count])


if __name__ == "__main__":
    main()
