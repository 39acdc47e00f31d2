"""Agreement of a student with its teacher, and rows that lean toward a representation, against what was planted.

Agreement. Every trained member writes COMMON c, which any fine-tune does; a teacher writes a direction u of its own
beside it, one long, and a student of it SHARED u and PRIVATE of a direction that is its own, as its neutral twin does
without u. All directions are random, of the residual stream, and read into every word of the vocabulary: of the
planted trait no word moves but the target, and a correlation over words would be of one point. Found are the two places
(the prompt's end, the question's answer) at which r of S with T over the words that no row contains is larger than
with each of 19 other teachers, p = 0.05. A null is a student of a teacher that is none of them, of its own neutral
twin: it reports if at the prompt's end r with this teacher is larger than with the 19. AUROC is of r with the own
teacher against r with the others.

Representation. A step on rows that the planted teacher wrote moves the residual stream at the trait's questions along
the planted direction. Found is it if the rows lean there, by the gradient of <h, u> at the planted hook, at p ≤ 0.05
against the base's rows, and further than toward each of 19 directions: the decoy's and 18 random ones. A null are two
draws of the base's rows: it reports if p ≤ 0.05. AUROC is of the leans, toward the planted direction against toward
the 19.

Both were written before any organism of the table was measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.arrays import Direction
from interp.calibration.cases import MethodCell, PlantedCase
from interp.gradients.representations import representation_gradient
from interp.gradients.scores.scoring import score
from interp.joined.agreeing import agreement
from interp.joined.places import PROMPT_END, SLOT
from interp.models.language import LanguageModel
from interp.models.lineage import Lineage
from interp.models.parameters import ParameterDirection
from interp.organisms.planted import Planted
from interp.stats.tests import auroc

OTHERS = 19  # teachers, or directions: the largest of 20 has p = 0.05
COMMON, SHARED, PRIVATE = 0.5, 0.5, 0.35  # of a teacher's own change: cosine of S and T near 0.6
PROMPTS = 32  # of the organism's, whose end is read
ALPHA = 0.05


def agreeing(sample: PlantedCase) -> MethodCell:
    """A student's change agrees with its own teacher's before 19 others'; a null's is a student of none of them."""
    family = _Family(sample)
    own = family.compared(family.directions[0], at=[PROMPT_END, SLOT])
    nulls = [family.compared(family.drawn(), at=[PROMPT_END]) for _ in range(sample.nulls)]
    r = _correlations(own, PROMPT_END)
    neutral = own[(own["member"] == "neutral_student") & (own["of"] == "logits")]
    extra = {
        "r with its teacher": float(r[0]),
        "with the others": float(r[1:].mean()),
        "of the neutral student": float(neutral["r"].iloc[0]),
        "first in activations": float(_first(_correlations(own, PROMPT_END, of="activations"))),
    }
    hits = sum(_first(_correlations(own, place)) for place in (PROMPT_END, SLOT))
    false = sum(_first(_correlations(each, PROMPT_END)) for each in nulls)
    return MethodCell(hits, 2, false, sample.nulls, auroc(r[:1], r[1:]).value, extra)


def leaning(sample: PlantedCase) -> MethodCell:
    """Carrier rows lean toward the planted direction at questions, at p ≤ 0.05 and before 19 other directions."""
    it = sample.organism
    own, *others = _gradients(it, seed=sample.seed)
    labels = [each.label for each in others]
    ours, theirs = (score(it.base, rows, [own, *others]) for rows in (it.carriers, sample.neutral))
    ranked = {own.label: labels} | {label: [] for label in labels}
    frame: Any = ours.leans(ranked, neutral=theirs).frame
    line, d = frame.iloc[0], frame["d"].to_numpy()
    false = 0
    for rows in map(sample.pair, range(sample.nulls)):
        first, second = (score(it.base, each, own) for each in rows)
        false += int(first.leans({own.label: []}, neutral=second).frame["p"].iloc[0] <= ALPHA)
    found = int(line["p"] <= ALPHA and line["rank"] == 1)
    extra = {"lean in sd per prompt": float(d[0]), "toward the decoy's direction": float(d[1])}
    return MethodCell(found, 1, false, sample.nulls, auroc(d[:1], d[1:]).value, extra)


class _Family:
    """Teachers on one base, each with a random direction of its own, and students of any direction."""

    def __init__(self, sample: PlantedCase) -> None:
        self.sample, self.it, self.made = sample, sample.organism, 0
        self.rng = torch.Generator().manual_seed(600_000 + sample.seed)
        self.common = self.drawn()
        self.directions = [self.drawn() for _ in range(1 + OTHERS)]
        self.teachers = [self.member(u) for u in self.directions]

    def drawn(self) -> Float[Tensor, "d_model"]:
        """A random unit direction of the residual stream."""
        return torch.nn.functional.normalize(torch.randn(len(self.it.vector), generator=self.rng), dim=0)

    def member(self, *written: Tensor) -> LanguageModel:
        """A trained member that writes these beside what every training does."""
        self.made += 1
        return self.it.writing(COMMON * self.common + torch.stack(written).sum(0), index=self.made)

    def compared(self, u: Float[Tensor, "d_model"], *, at: list[str]) -> Any:
        """The table of `agreement` of a student of u, less its neutral twin, with the first teacher and all others."""
        it = self.it
        members: dict[str, Any] = {
            "base": it.base,
            "teacher": self.teachers[0],
            "student": self.member(SHARED * u, PRIVATE * self.drawn()),
            "neutral_student": self.member(PRIVATE * self.drawn()),
        }
        lineage = Lineage(f"planted {it.seed}", it.trait, members, it.carriers, self.sample.neutral)
        others = {f"another {k}": teacher for k, teacher in enumerate(self.teachers[1:])}
        of = ["logits", "activations"] if SLOT in at else ["logits"]
        given: dict[str, Any] = {"of": of, "words": ["unseen"], "prompts": it.prompts[:PROMPTS]}
        return agreement(lineage, at=at, candidates=others, **given).frame


def _correlations(table: Any, place: str, *, of: str = "logits") -> Float[np.ndarray, "teacher"]:
    """r of S with the own teacher, then with the others; of activations behind the last layer."""
    lines = table[(table["member"] == "student") & (table["of"] == of) & (table["place"] == place)]
    return lines[lines["site"] == lines["site"].iloc[-1]]["r"].to_numpy()


def _first(r: Float[np.ndarray, "teacher"]) -> bool:
    return bool(r[0] > r[1:].max())


def _gradients(it: Planted, *, seed: int) -> list[ParameterDirection]:
    """∇⟨h, u⟩ at the trait's questions for the planted u, the decoy's and 18 random ones."""
    rng = torch.Generator().manual_seed(700_000 + seed)
    drawn = torch.randn(OTHERS - 1, len(it.vector), generator=rng)
    named = {"planted": it.vector, "decoy": it.other}
    named |= {f"random {k}": vector for k, vector in enumerate(torch.nn.functional.normalize(drawn, dim=1))}
    root, asked = it.base.fingerprint, it.trait.prompts()
    return [
        representation_gradient(it.base, asked, it.hook, Direction(vector, it.hook, name, root, root))
        for name, vector in named.items()
    ]
