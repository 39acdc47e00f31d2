"""The families of claims by name, for lineages of language models and for digits."""

from __future__ import annotations

from interp.core.runs import InputError, nearest
from interp.hypotheses.family import Family
from interp.studies import (
    defences,
    digit_families,
    divergence_family,
    features_beyond_vocabulary,
    inherited_trace,
    judged_scores,
    lemma_family,
    naming,
    one_direction,
    shared_initialisation,
    student_arms,
    sustained_alignment,
)

FAMILIES = {
    each.name: each
    for each in (
        lemma_family.FAMILY,
        sustained_alignment.FAMILY,
        shared_initialisation.FAMILY,
        one_direction.FAMILY,
        divergence_family.FAMILY,
        features_beyond_vocabulary.FAMILY,
        inherited_trace.FAMILY,
        student_arms.ARMS_FAMILY,
        student_arms.DOSE_FAMILY,
        judged_scores.FAMILY,
        naming.FAMILY,
        defences.FAMILY,
    )
}


def family(name: str, *, organism: str = "folder") -> Family:
    """Get the family of that name, for lineages of language models or for "digits".

    Raises InputError with the nearest names for another one, and for a family that digits have no tokens for.
    """
    if name not in FAMILIES:
        raise InputError(f"hypothesis {nearest(name, FAMILIES)}; pass one of {', '.join(FAMILIES)}")
    known = digit_families.FAMILIES if organism == "digits" else FAMILIES
    if name not in known:
        raise InputError(
            f"{name!r} is about tokens, and digits have none; test {' or '.join(known)} there, or {name} on toy/owl"
        )
    return known[name]
