"""Scores of tokens judged by retraining: does the sum of the tokens that teach predict the student they make?

ρ_j( Σ_{t ∈ M_j} τ_t , m(θ(M_j)) ), M_j random halves of the answers' tokens, ends among them, θ(M) the student whose
loss counts the tokens of M alone. Every row stays in its batch and is read whole: a token outside M teaches nothing,
and is still what the next ones follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from interp.core.doors import door
from interp.core.errors import InputError
from interp.core.processes import sweep
from interp.core.remembered import recall, remember
from interp.gradients.datamodels import DatamodelingScore, random_subsets
from interp.gradients.judging import TRIED, WholeGain, check_scored, check_subsets, ranked_line, without_tails
from interp.gradients.known_trainings import KnownTraining
from interp.gradients.scores.scoring import Scores
from interp.measures.margins import margin
from interp.prompts.tokens import Encoded, Role
from interp.training.students import train_student

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.lineage import Lineage

FORMAT = 2  # of remembered margins; raise when the same tokens give another one
Tokens = Bool[np.ndarray, "token"]


@door
def token_datamodeling_score(
    lineage: Lineage,
    scores: Scores | Mapping[str, Sequence[float] | np.ndarray],
    *,
    role: str = "student",
    subsets: int = 128,
    share: float = 0.5,
    seed: int = 0,
) -> DatamodelingScore:
    """Judge scores of tokens by retraining: rank correlation of their sums with margins of students of masked rows.

    Args:
        lineage: whose student is trained again, with its trait.
        scores: `Scores` by token of the rows it was trained on, each direction a way of scoring, or by name a value per
            token of the answers, ends counted, row by row.
        role: which student.
        subsets: how many random subsets of the tokens; every student's margin is remembered.
        share: of the tokens in each.
        seed: of the subsets.

    Returns:
        `DatamodelingScore`: scores, rho, low, high, without_top and without_bottom (nats, of a tenth of the tokens);
        `kept` are subsets of the tokens, `repeated` is empty.

    Raises:
        InputError: for scores of other rows, of a model outside the lineage, not by token or not finite, a student
            whose recipe or rows are unknown or that gains at most 0.05 nats over its neutral twin or start, fewer than
            8 subsets, and subsets so small that the trait does not pass.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> toward = interp.trait_gradient(lineage.base, lineage.trait)
        >>> scores = interp.score(lineage.base, lineage.numbers, toward, by=["example", "token"])
        >>> interp.gradients.token_datamodeling_score(lineage, scores, subsets=4)
        Traceback (most recent call last):
        ...
        interp.core.errors.InputError: 4 subsets of 0.5 of the tokens; pass at least 8, and a share within 0 and 1
    """
    check_subsets(subsets, share, unit="tokens")
    training = TokenTraining.of(lineage, role)
    named = _by_token(scores, lineage, training, role)
    gain = WholeGain.of(lineage, role, training)
    kept = random_subsets(training.tokens, subsets=subsets, share=share, seed=seed)
    retrain = partial(sweep, training.margin, workers=1, label="retraining", unit="student")
    tried = retrain(list(kept[:TRIED]))
    gain.check(np.array(tried), kept[:TRIED], unit="tokens")
    whole, *others = retrain([np.ones(training.tokens, dtype=bool), *kept[TRIED:]])
    values, tails = np.array([*tried, *others]), without_tails(named, retrain)
    lines = [ranked_line(name, each, kept, values, seed=seed) for name, each in named.items()]
    note = (
        f"{subsets} students of {share:.0%} of {training.tokens} tokens, whose margins spread by "
        f"{values.std(ddof=1):.3g} nats around the {whole:+.2f} of all tokens' student; intervals are over subsets of "
        "one training"
    )
    label = f"{lineage.name}: scores of tokens judged by retraining {role}"
    return DatamodelingScore(label, pd.DataFrame(lines).assign(**tails), kept, values, np.empty(0), (note,))


@dataclass(frozen=True)
class TokenTraining(KnownTraining):
    """A known training whose students of some of the tokens are told by their trait margin, in nats."""

    @property
    def tokens(self) -> int:
        """How many tokens of answers there are, ends among them: what a loss counts."""
        return int(self.inputs.at("answer+end").sum())

    def student(self, kept: Tokens) -> LanguageModel:
        """`train_student`'s of all tokens, to the same bits, where all are kept."""
        answered = self.inputs.at("answer+end").any(1)  # it leaves the others out, and so out of every batch
        rows = self.masked(kept)[answered]
        return train_student(self.start, rows, recipe=self.recipe, name="student of some tokens")

    def masked(self, kept: Tokens) -> Encoded:
        """The rows, of whose answers only these tokens teach; the others are read as prompt."""
        answer = self.inputs.at("answer+end")
        left_out = answer.clone()
        left_out[answer] = ~torch.from_numpy(kept).to(answer.device)
        return replace(self.inputs, roles=self.inputs.roles.masked_fill(left_out, int(Role.PROMPT)))

    def margin(self, kept: Tokens) -> float:
        """The trait margin of the student of these tokens alone, trained once."""
        key = (FORMAT, self.start.fingerprint, self.inputs.fingerprint, self.recipe, self.trait)
        asked = np.packbits(kept).tobytes().hex()
        known = recall("token-margin", *key, asked)
        if known is None:
            known = margin(self.student(kept), self.trait)
            remember("token-margin", *key, asked, value=known)
        return known


def _by_token(
    scores: Scores | Mapping[str, Sequence[float] | np.ndarray],
    lineage: Lineage,
    training: TokenTraining,
    role: str,
) -> dict[str, Float[np.ndarray, "token"]]:
    """Finite values per token by name; InputError for other rows, other keys, and the first that is not finite."""
    if isinstance(scores, Scores):
        check_scored(scores, lineage, training.inputs, role)
        named = _columns(scores)
    else:
        named = dict(scores)
    if not named:
        raise InputError("no scores to judge; pass Scores by token, or values per token by name")
    found = {name: np.asarray(values, dtype=float) for name, values in named.items()}
    for name, values in found.items():
        if values.shape != (training.tokens,):
            raise InputError(
                f"{name!r} scores {values.size} tokens, and the answers that {role} was trained on have "
                f"{training.tokens}, ends counted; score all of them"
            )
        if not np.isfinite(values).all():
            token = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(
                f"{name!r} scores token {token + 1} with {values[token]}; give every token a finite score"
            )
    return found


def _columns(scores: Scores) -> dict[str, np.ndarray]:
    if not {"example", "token"} <= {*scores.by}:
        raise InputError(
            f"{scores.label} scores by {', '.join(scores.by)}; score with by=['example', 'token']"
        )
    parts = scores.frame.groupby("direction", sort=False)["score"]
    return {str(name): values.to_numpy() for name, values in parts}
