"""The families of claims by name, for lineages of language models and for digits; each is imported when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from interp.core.errors import InputError, nearest

if TYPE_CHECKING:
    from interp.hypotheses.family import Family

HOMES = {
    "lemma": "lemma_family.FAMILY",
    "sustained-alignment": "sustained_alignment.FAMILY",
    "shared-initialisation": "shared_initialisation.FAMILY",
    "one-direction": "one_direction.FAMILY",
    "divergence-tokens": "divergence_family.FAMILY",
    "features-beyond-vocabulary": "features_beyond_vocabulary.FAMILY",
    "inherited-trace": "inherited_trace.FAMILY",
    "student-arms": "student_arms.ARMS_FAMILY",
    "dose": "student_arms.DOSE_FAMILY",
    "judged-scores": "judged_scores.FAMILY",
    "naming": "naming.FAMILY",
    "defences": "defences.FAMILY",
}
"""Where each family is, below `interp.studies`: the command line lists the names and imports none of them."""


class Families(Mapping[str, "Family"]):
    """The families of HOMES."""

    def __getitem__(self, name: str) -> Family:
        module, _, attribute = HOMES[name].partition(".")
        return getattr(import_module(f"interp.studies.{module}"), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)

    def __contains__(self, name: object) -> bool:
        return name in HOMES


FAMILIES = Families()


def family(name: str, *, organism: str = "folder") -> Family:
    """Get the family of that name, for lineages of language models or for "digits".

    Raises InputError with the nearest names for another one, and for a family that digits have no tokens for.

    Example:
        >>> import interp
        >>> interp.studies.family("lemma").claims[0].name
        'lemma-ratio'
    """
    if name not in FAMILIES:
        raise InputError(f"hypothesis {nearest(name, FAMILIES)}; pass one of {', '.join(FAMILIES)}")
    if organism != "digits":
        return FAMILIES[name]
    from interp.studies.digit_families import FAMILIES as of_digits

    if name not in of_digits:
        raise InputError(
            f"{name!r} is about tokens, and digits have none; test {' or '.join(of_digits)} there, or {name} on toy/owl"
        )
    return of_digits[name]
