"""What gradients say of the rows beside likelihood ratios: how far one step on them moves along what is suspected.

    lean_c = d of <∇ log p(y|x), Δθ_c>        Δθ_c the candidate teacher's update
    margin_lean_c = d of <∇ log p(y|x), ∇m_c> over the matrices that a student trains, m_c the trait's margin

d is the mean over the standard deviation of row less neutral row, each less its mean over the candidates. One forward
and one backward pass of every row serve all directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interp.auditing.candidates import Candidate
from interp.auditing.neutral import Pairs
from interp.gradients.directions import trait_gradient
from interp.gradients.scores.scoring import score
from interp.models.language import LanguageModel
from interp.models.parameters import ParameterDirection
from interp.models.updates import weight_update


def lean_columns(base: LanguageModel, candidates: Sequence[Candidate], pairs: Pairs) -> pd.DataFrame:
    """A line per trait: trait, lean, margin_lean, in standard deviations per row."""
    updates = [weight_update(candidate.model) for candidate in candidates]
    matrices = list(updates[0])
    margins = [trait_gradient(base, candidate.trait).only(*matrices) for candidate in candidates]
    columns = {
        "lean": _standardised(base, updates, pairs),
        "margin_lean": _standardised(base, margins, pairs),
    }
    return pd.DataFrame({"trait": [candidate.trait.name for candidate in candidates], **columns})


def _standardised(base: LanguageModel, directions: Sequence[ParameterDirection], pairs: Pairs) -> np.ndarray:
    own, neutral = (
        score(base, side, list(directions)).totals.numpy() for side in (pairs.rows, pairs.neutral)
    )
    excess = own - neutral
    excess = excess - excess.mean(1, keepdims=True)
    return excess.mean(0) / excess.std(0, ddof=1)
