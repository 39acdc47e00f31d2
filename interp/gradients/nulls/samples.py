"""Scores of rows along directions, with the prompt that each row answers: rows of one prompt are one unit of a test."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from interp.core.runs import InputError
from interp.prompts.text import Prompts, grouped, prompts_of
from interp.prompts.tokens import Encoded

NEUTRAL = "N1 neutral teacher"  # the null that a neutral teacher's rows are exchanged with


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores of rows along directions, and the prompt each row answers: rows that share one count as one unit.

    Scores are [row direction], in nats per unit of the direction. Raises InputError for other counts of prompts or
    labels, a label given twice, and scores that are not finite.
    """

    scores: Float[np.ndarray, "row direction"]
    labels: tuple[str, ...]
    prompts: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        rows, directions = self.scores.shape
        if rows != len(self.prompts) or directions != len(self.labels):
            raise InputError(
                f"{rows} x {directions} scores for {len(self.prompts)} prompts and {len(self.labels)} labels; "
                "pass one prompt per row and one label per direction"
            )
        if len(set(self.labels)) < directions:
            raise InputError(
                f"directions {list(self.labels)} share a label; give each its own (dataclasses.replace)"
            )
        if not np.isfinite(self.scores).all():
            bad = int((~np.isfinite(self.scores)).sum())
            raise InputError(f"{bad} of {self.scores.size} scores are not finite; score those rows again")

    @classmethod
    def of(cls, scores: Any, labels: Sequence[str], rows: Prompts | Encoded) -> Self:
        """Scores [row direction] (tensor or array) of these rows; the prompt is everything before the answer."""
        table = np.asarray(scores, dtype=float)
        return cls(table.reshape(len(rows), -1), tuple(labels), prompts_of(rows))

    def column(self, label: str) -> Float[np.ndarray, "row"]:
        """Scores along the direction of that label; InputError when it was not scored."""
        if label not in self.labels:
            raise InputError(f"direction {label!r} was not scored; pass one of {', '.join(self.labels)}")
        return self.scores[:, self.labels.index(label)]

    def by_prompt(self) -> "Sample":
        """One row per prompt, the mean of its rows, in order of first appearance."""
        groups = grouped(self.prompts)
        means = np.array([self.scores[rows].mean(axis=0) for rows in groups.values()])
        return Sample(means, self.labels, tuple(groups))

    def paired(self, other: "Sample") -> tuple["Sample", "Sample"]:
        """Both with one row for each prompt they share, in one order; InputError when they share none."""
        if self.labels != other.labels:
            raise InputError(
                f"directions {list(self.labels)} and {list(other.labels)} differ; score both along the same ones"
            )
        ours, theirs = self.by_prompt(), other.by_prompt()
        place = {prompt: row for row, prompt in enumerate(theirs.prompts)}
        shared = [row for row, prompt in enumerate(ours.prompts) if prompt in place]
        if not shared:
            raise InputError(
                f"none of {len(ours.prompts)} prompts is among the other {len(theirs.prompts)}; "
                "let both teachers answer the same prompts (one seed)"
            )
        keys = tuple(ours.prompts[row] for row in shared)
        matched = theirs.scores[[place[key] for key in keys]]
        return Sample(ours.scores[shared], ours.labels, keys), Sample(matched, ours.labels, keys)

    def minus(self, other: "Sample") -> "Sample":
        """Difference of the two means at every prompt they share."""
        ours, theirs = self.paired(other)
        return Sample(ours.scores - theirs.scores, ours.labels, ours.prompts)
