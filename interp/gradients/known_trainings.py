"""A training that can be gone through again: L(θ) over a member's own rows from its own start, by its own recipe.

Who asks trains again with other rows or other weights, so all of it has to be known: nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

from interp.core.errors import InputError
from interp.gradients.ledger.recording import trained_from, training_rows
from interp.training.grower import recipe_of
from interp.training.students import Recipe, prepare

if TYPE_CHECKING:
    from interp.models.language import LanguageModel
    from interp.models.lineage import Lineage
    from interp.prompts.tokens import Encoded

SAID = "load a lineage that says it, such as one that interp run wrote"


@dataclass(frozen=True)
class KnownTraining:
    """What a member was made of: where it started, the rows as tokens, the recipe; and its lineage's trait."""

    start: LanguageModel
    inputs: Encoded
    recipe: Recipe
    trait: Any

    @classmethod
    def of(cls, lineage: Lineage, role: str, recipe: Recipe | None = None, *, advice: str = SAID) -> Self:
        """The training of a member; InputError where its start, recipe or trait is unknown or no row holds an answer.

        `recipe` stands for the lineage's own where that says none; `advice` ends the sentence that refuses.
        """
        start, rows = trained_from(lineage, role), training_rows(lineage, role)
        found = recipe or recipe_of(lineage, role)
        if found is None or lineage.trait is None:
            missing = "recipe" if found is None else "trait"
            raise InputError(f"the {missing} of {role} of {lineage.name!r} is unknown; {advice}")
        inputs = start.encode(rows)
        if not inputs.at("answer+end", predicting=True).any():
            raise InputError(
                f"no row of {rows.label} that {role} was trained on holds an answer, so that nothing is trained; "
                "pass the rows with their completions"
            )
        return cls(start, inputs, found, lineage.trait)


def fresh_network(start: LanguageModel, recipe: Recipe) -> Any:
    """The start's network as its student's training finds it, adapter drawn; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return prepare(start, recipe)[0]
