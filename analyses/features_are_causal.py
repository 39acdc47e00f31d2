"""Question: do the features the teacher moves carry its trait, where it writes numbers and where its student answers?

Written before seeds 0-7 were run; the code was tried on seed 100, nothing was tuned. For owl lineages of eight seeds a
dictionary (blocks.0.hook_resid_post, default recipe) is trained on the base's own numbers. The features are the 16 of
largest |Δ| among those `feature_shift` reports in the teacher at answer numbers, of 512 number prompts; their mean
shift is taken on 512 others, at all tokens. Controls are random sets of 16 features, each matched to the one it stands
for in frequency, norm and activation, with the chosen one's amount, the whole scaled to the same |Δh|.
A. Necessity in writing. The teacher writes its 8192 rows with the mean shift of the features taken out at every token:
   their mean is the base's then, and what varies about it is kept, where clamping them would also take from the teacher
   what the base says with them. Outcome: margin of the student of the untouched teacher − of this one, and random −
   this one.
B. Sufficiency in writing. The base writes with the shift put in. Outcome: margin of its student − of the neutral
   student, and − random.
C. In the student while it answers: the share of its change of margin that goes when its own mean shift of the features
   on the questions is taken out, and that the base gains when it is put in; each − its mean over controls.
A paired sign-flip test over seeds at 0.01 judges every difference. Beside them, without claims: all reported features
in A and B, shares of the margin with t-intervals, and the effects on the likelihood of the teacher's rows.

    python -m analyses.features_are_causal [--quick] [--seeds 8] [--trait owl] [--first 0] [--out FILE]
"""

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import interp

FORMAT = 2
RESULTS = Path(__file__).parent / "results" / "features_are_causal.json"
HOOK = "blocks.0.hook_resid_post"
RECIPE = interp.features.SAERecipe()
TOP = 16  # features whose shift is taken out or put in
SETS = 3  # random sets whose students are trained
SETS_ANSWERING = 20  # random sets beside the student's answers, which cost no training
SELECTION, ESTIMATION = (
    40_000,
    50_000,
)  # added to the lineage's seed, far from the seeds that prompts are sampled with
CLAIMS = {
    "taking-out-lowers-the-margin": ("margins", "untouched", "taken out"),
    "taking-out-lowers-it-more-than-random": ("margins", "random taken out", "taken out"),
    "putting-in-raises-the-margin": ("margins", "put in", "neutral"),
    "putting-in-raises-it-more-than-random": ("margins", "put in", "random put in"),
    "necessary-in-answering": ("shares", "necessity", "random necessity"),
    "sufficient-in-answering": ("shares", "sufficiency", "random sufficiency"),
}
UNITS = {"margins": "nats", "shares": "share of the student's change"}
log = logging.getLogger(__name__)


def main() -> None:
    """Train every arm of every seed, judge the differences, keep the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small lineage; nothing is kept")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trait", choices=interp.prompts.ANIMALS, default="owl")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    count, toy, recipe = given.seeds, interp.organisms.TOY, RECIPE
    if given.quick:
        count, toy, recipe = 1, interp.organisms.QUICK_TOY, interp.features.SAERecipe(samples=20_000)
    lineages = (
        (seed, interp.organisms.grow(interp.get_trait(given.trait), seed=seed, recipe=toy))
        for seed in range(given.first, given.first + count)
    )
    found = [measured(lineage, seed=seed, toy=toy, recipe=recipe) for seed, lineage in lineages]
    command = f"python -m analyses.features_are_causal --seeds {count} --trait {given.trait}"
    results = collected(found, command=command, recipe=recipe)
    for verdict in results["verdicts"]:
        log.info("%s: %s, effect %.3f, p %.4f", *(verdict[k] for k in ("name", "decision", "effect", "p")))
    if not given.quick:
        interp.core.write_atomic(given.out, interp.core.json_text(results))


def collected(
    found: list[dict[str, Any]], *, command: str, recipe: interp.features.SAERecipe
) -> dict[str, Any]:
    """What is kept: the claims, the shares of the margin and their intervals, every lineage's numbers."""
    return {
        "command": command,
        "hook": HOOK,
        "dictionary": dataclasses.asdict(recipe) | {"seed": "the lineage's"},
        "versions": interp.core.versions(),
        "verdicts": [verdict.to_json() for verdict in judged(found)],
        "shares": {name: spread([line["shares"][name] for line in found]) for name in found[0]["shares"]},
        "lineages": found,
    }


def judged(found: list[dict[str, Any]]) -> list[interp.Verdict]:
    """One verdict for every difference between two arms."""
    return [
        interp.stats.paired_verdict(
            name,
            f"the {'trait margin' if kind == 'margins' else 'share'} is larger with {more} than with {less}",
            [line[kind][more] - line[kind][less] for line in found],
            unit=UNITS[kind],
        )
        for name, (kind, more, less) in CLAIMS.items()
    ]


def spread(values: list[float]) -> dict[str, Any]:
    """Mean over lineages and its 95 % t-interval."""
    return {"mean": float(np.mean(values)), "interval": interp.stats.t_interval(values), "n": len(values)}


def measured(
    lineage: interp.Lineage,
    *,
    seed: int,
    toy: interp.organisms.ToyRecipe = interp.organisms.TOY,
    recipe: interp.features.SAERecipe = RECIPE,
    cache: interp.core.Cache | None = None,
) -> dict[str, Any]:
    """Margins of every student in nats, shares of the student's change of margin, and effects; cached by lineage."""
    cache = cache or interp.core.Cache.default()
    recipe = dataclasses.replace(recipe, seed=seed)
    parts = (lineage.base.fingerprint, lineage.student.fingerprint, lineage.numbers, lineage.trait)
    key = interp.core.digest(FORMAT, *parts, toy, recipe, seed, HOOK, TOP, SETS, SETS_ANSWERING)

    def build(folder: Path) -> None:
        dictionary = interp.train_sae(
            lineage.base, lineage.neutral_numbers, hook=HOOK, recipe=recipe, cache=cache
        )
        (folder / "found.json").write_text(
            interp.core.json_text(_Trial(lineage, dictionary, toy, seed).found())
        )

    folder = cache.get("features-causal", key, build)
    line = {"seed": seed, **json.loads((folder / "found.json").read_text())}
    log.info("%s", {name: line[name] for name in ("seed", "reported", "margins", "shares")})
    return line


@dataclasses.dataclass(frozen=True, eq=False)
class _Trial:
    """One lineage and its dictionary, and everything that is asked of them."""

    lineage: interp.Lineage
    dictionary: interp.features.Dictionary
    toy: interp.organisms.ToyRecipe
    seed: int

    def found(self) -> dict[str, Any]:
        """Every number that is kept of the lineage."""
        selection, rows = (
            interp.number_prompts(512, seed=part + self.seed) for part in (SELECTION, ESTIMATION)
        )
        shift = interp.feature_shift(
            self.dictionary,
            self.lineage.teacher,
            selection,
            positions="answer.numbers",
            trait=self.lineage.trait,
            seed=self.seed,
        )
        live = shift.frame[shift.frame["live"] & (shift.frame["feature"] >= 0)]
        largest = live.reindex(live["delta"].abs().sort_values(ascending=False, kind="stable").index)
        features = list(shift.reported[:TOP] or largest["feature"][:TOP])
        everything = list(shift.reported or features)
        statistics = interp.features.feature_statistics(
            self.dictionary, self.lineage.base, rows, positions="all"
        )
        features = [each for each in features if statistics["live"][each]]
        controls = interp.features.control_sets(statistics, features, count=SETS_ANSWERING, seed=self.seed)
        moved = interp.features.mean_shift(self.dictionary, self.lineage.teacher, rows)
        margins = self.writing(features, everything, controls[:SETS], moved, rows)
        answering = self.answering(features, controls)
        return {
            "reported": len(shift.reported),
            "live": len(live),
            "features": features,
            "error_share": shift.notes[1],
            "margins": margins,
            "shares": shares(margins) | answering[0],
            "p in answering": answering[1],
            "effects": self.effects(features, controls, moved),
        }

    def writing(
        self,
        features: Sequence[int],
        everything: Sequence[int],
        controls: Sequence[Sequence[int]],
        moved: Tensor,
        rows: interp.Prompts,
    ) -> dict[str, Any]:
        """Margins of the students of the teacher without the shift and of the base with it."""
        teacher, base = (
            interp.training.Teacher(self.lineage.teacher, "fine-tuned"),
            interp.training.neutral_teacher(self.lineage.base),
        )
        members = {"untouched": "student", "neutral": "neutral_student"}
        margins: dict[str, Any] = {
            arm: interp.margin(self.lineage.members[role], self.lineage.trait)
            for arm, role in members.items()
        }
        reading = interp.features.read_tokens(self.dictionary, self.lineage.base, rows[:64], positions="all")
        for arm, writer, sign in (("taken out", teacher, -1.0), ("put in", base, 1.0)):
            amounts = sign * moved[list(features)]
            own = interp.features.add(features, amounts)
            size = interp.features.change_size(self.dictionary, reading, own)
            margins[arm] = self.student(writer, own)
            margins[f"all {arm}"] = self.student(
                writer, interp.features.add(everything, sign * moved[list(everything)])
            )
            draws = []
            for some in controls:
                other = interp.features.add(some, amounts)
                draws.append(
                    self.student(
                        writer,
                        interp.features.scaled_change(
                            other, size / interp.features.change_size(self.dictionary, reading, other)
                        ),
                    )
                )
            margins[f"random {arm}"] = float(np.mean(draws))
            margins[f"random {arm}, each"] = draws
        return margins

    def student(self, writer: interp.training.Teacher, change: interp.features.Change) -> float:
        """Trait margin of a student of what `writer` writes under the change, by the lineage's recipe."""
        rows, _ = interp.features.written_under(
            writer, self.dictionary, change, rows=self.toy.data.rows, seed=self.seed
        )
        recipe = dataclasses.replace(self.toy.student, seed=self.seed)
        return interp.margin(interp.train_student(self.lineage.base, rows, recipe=recipe), self.lineage.trait)

    def answering(
        self, features: Sequence[int], controls: Sequence[Sequence[int]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Necessity and sufficiency in the student while it answers beside the means of controls, and p of both."""
        given: dict[str, Any] = {"trait": self.lineage.trait, "controls": controls}
        found, p = {}, {}
        for name, verb in (
            ("necessity", interp.features.necessity),
            ("sufficiency", interp.features.sufficiency),
        ):
            effects = verb(self.dictionary, self.lineage.student, features, **given)
            found |= {name: effects.chosen(), f"random {name}": float(effects.controls().mean())}
            p[name] = effects.p()
        return found, p

    def effects(
        self, features: Sequence[int], controls: Sequence[Sequence[int]], moved: Tensor
    ) -> dict[str, Any]:
        """On margin and likelihood of the teacher's rows: features set to zero, or their shift taken out."""
        asked = {"trait": self.lineage.trait, "rows": self.lineage.numbers[:512], "controls": controls}
        amounts = -moved[list(features)]
        return {
            f"{role} {name}": summary(
                interp.features.feature_effects(
                    self.dictionary, self.lineage.members[role], features, change=change, **asked
                )
            )
            for role in ("teacher", "student")
            for name, change in (
                ("ablated", interp.features.ablate_features),
                ("shift taken out", lambda some: interp.features.add(some, amounts)),
            )
        }


def summary(effects: interp.features.Effects) -> dict[str, dict[str, float]]:
    """Chosen features, mean of the controls and p, for margin and likelihood."""
    return {
        column: {
            "chosen": effects.chosen(column),
            "controls": float(effects.controls(column).mean()),
            "p": effects.p(column),
        }
        for column in ("delta_margin", "delta_logprob_per_token")
    }


def shares(margins: dict[str, Any]) -> dict[str, float]:
    """Parts of margin(untouched) − margin(neutral): lost when the shift is taken out, gained when it is put in."""
    whole = margins["untouched"] - margins["neutral"]
    taken = {
        f"{kind}written, necessity": (margins["untouched"] - margins[f"{kind}taken out"]) / whole
        for kind in ("", "random ", "all ")
    }
    put = {
        f"{kind}written, sufficiency": (margins[f"{kind}put in"] - margins["neutral"]) / whole
        for kind in ("", "random ", "all ")
    }
    return taken | put


if __name__ == "__main__":
    main()
