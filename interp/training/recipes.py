"""The recipe by which a member was trained: as its lineage folder says, or as the cache noted it when it was grown."""

import json
from collections.abc import Mapping
from typing import Any

from interp.core.records import read_fields
from interp.core.runs import Cache
from interp.models.lineage import Lineage
from interp.models.seam import Model
from interp.training.students import Recipe


def known_recipe(student: Model, *, cache: Cache | None = None) -> Recipe | None:
    """The recipe by which a toy lineage trained exactly these weights; None for weights no lineage here has grown."""
    cache = cache or Cache.default()
    if not cache.has("recipe", student.fingerprint):
        return None
    return read_recipe(json.loads((cache.folder("recipe", student.fingerprint) / "recipe.json").read_text()))


def recipe_of(lineage: Lineage, role: str, *, cache: Cache | None = None) -> Recipe | None:
    """The recipe that trained a student: what its lineage says, else what the cache knows; None where neither does."""
    said = None if lineage.growth is None else lineage.growth.recipes.get(role)
    if said is not None and "lr" in said:
        return read_recipe(said)
    return known_recipe(lineage[role], cache=cache)


def read_recipe(fields: Mapping[str, Any], place: str = "recipe") -> Recipe:
    """A recipe from its JSON; InputError, which opens with `place`, for what is none."""
    return read_fields(Recipe, fields, place)
