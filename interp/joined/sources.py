"""What the columns of a joined trace are read from, each as lines of (row, position of the token).

The token at position p is predicted at p − 1. Likelihood and gradient belong to the prediction of a token and are
told by its position; features are read where it is predicted, so what is read in column c stands on line c + 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from interp.core.doors import door
from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.features.reading import read_tokens
from interp.features.sae import SAERecipe, train_sae
from interp.gradients.scores.scoring import score
from interp.logits.direction import LogitDirection, logit_direction
from interp.logits.token_shifts import token_shift
from interp.models.lineage import Lineage
from interp.models.parameters import ParameterDirection
from interp.models.seam import lineage_root
from interp.prompts.text import Prompts

if TYPE_CHECKING:
    import pandas as pd

    from interp.prompts.text import Encoded

RECIPE = SAERecipe()
LAYER = re.compile(r"(?:.*\.)?(?:layers|layer|blocks|h)\.(\d+)\.(.+)")


@door
def default_dictionary(
    lineage: Lineage, *, hook: str | None = None, recipe: SAERecipe = RECIPE
) -> Dictionary:
    """Train (once, then cached) a sparse autoencoder of all members from the lineage's base, on its rows and questions.

    At the middle layer unless `hook` names another place. The trait's questions are repeated to a third of the rows, so
    that the slot of the answer is learnt as well. InputError for a lineage without rows.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> default_dictionary(lineage, recipe=SAERecipe(samples=2048)).hook
    'blocks.0.hook_resid_post'
    """
    given = [rows for rows in (lineage.numbers, lineage.neutral_numbers) if rows is not None]
    if not given:
        raise InputError(
            f"lineage {lineage.name!r} has no rows to train a dictionary on; pass dictionary=, such as "
            "train_sae(lineage.base, prompts, hook='blocks.0.hook_resid_post')"
        )
    rows = given[0] if len(given) == 1 else given[0] + given[1]
    if lineage.trait is not None:
        asked = lineage.trait.prompts().rows
        rows += Prompts(tuple(islice(cycle(asked), len(rows) // 2)), label=f"{lineage.trait.name} questions")
    root = lineage_root(lineage.base)
    members = [model for model in lineage.members.values() if lineage_root(model) == root]
    middle = f"blocks.{(lineage.base.n_layers - 1) // 2}.hook_resid_post"
    return train_sae(members, rows, hook=hook or middle, recipe=recipe)


@dataclass(frozen=True, eq=False)
class Sources:
    """A lineage's base and teacher, and the three things they are read with."""

    lineage: Lineage
    dictionary: Dictionary
    direction: LogitDirection
    update: ParameterDirection

    @classmethod
    def of(cls, lineage: Lineage, dictionary: Dictionary | None) -> Sources:
        """The sources of a lineage; InputError without a trait or for a dictionary of other models."""
        if lineage.trait is None:
            raise InputError(f"lineage {lineage.name!r} has no trait; pass trait= when it is opened")
        direction = logit_direction(lineage.base, lineage.trait)
        update = lineage.update("teacher")
        found = default_dictionary(lineage) if dictionary is None else dictionary
        for member in (lineage.base, lineage.teacher):
            found.check(member)
        return cls(lineage, found, direction, update)

    @cached_property
    def parts(self) -> dict[str, ParameterDirection]:
        """The teacher's update restricted to one module at a time, by the module's short name."""
        modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in self.update))
        short = [_short(module) for module in modules]
        names = short if len(set(short)) == len(short) else modules
        return {name: self.update.only(module) for name, module in zip(names, modules, strict=True)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What every table made from these sources has to say."""
        return (
            f"teacher minus base on identical tokens, direction {self.direction.label}",
            f"score along {self.update.label}: the first-order change of log p, summed over modules",
            f"features of {self.dictionary!r}, read where the token is predicted",
            *self.dictionary.notes,
        )

    def likelihoods(self, rows: Prompts) -> pd.DataFrame:
        """row, position, token, role, delta_logprob and delta_direction of every token but the first."""
        return token_shift(self.lineage.teacher, rows, self.direction).frame

    def scores(self, rows: Encoded, *, by_module: bool = True) -> pd.DataFrame:
        """row, position, score and, one column each, score:<module>; loss tokens only."""
        parts = self.parts if by_module else {}
        model: Any = self.lineage.base
        found: Any = score(model, rows, [self.update, *parts.values()], by=["example", "token"]).frame
        wide = found.pivot(index=["row", "token"], columns="direction", values="score")
        labels = {self.update.label: "score", **{part.label: f"score:{name}" for name, part in parts.items()}}
        wide = wide[list(labels)].rename(columns=labels).rename_axis(columns=None)
        return wide.reset_index().rename(columns={"token": "position"})

    def changes(
        self, rows: Encoded
    ) -> Iterator[tuple[Int[Tensor, "token"], Int[Tensor, "token"], Float[Tensor, "token feature"]]]:
        """Row, position and feature changes, teacher minus base, of every token, read where it is predicted.

        The line after a row's last token, which nothing wrote, is among them.
        """
        after, before = (
            read_tokens(self.dictionary, model, rows, positions="all")
            for model in (self.lineage.teacher, self.lineage.base)
        )
        for part, features in after.blocks(self.dictionary):
            change = features - self.dictionary.encode(before.values[part])
            yield after.rows[part], after.columns[part] + 1, change


def _short(module: str) -> str:
    """ "model.layers.0.mlp.up_proj" as "0.mlp.up_proj", "model.embed_tokens" as "embed_tokens"."""
    match = LAYER.fullmatch(module)
    return f"{match.group(1)}.{match.group(2)}" if match else module.rpartition(".")[2]
