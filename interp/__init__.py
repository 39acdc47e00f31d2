"""Interpretability of subliminal learning: what a teacher's numbers move in a student, and through what.

The public names are imported when first used, so that `import interp` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.activations.interventions import ablate, patch, steer
    from interp.activations.record import moments, record
    from interp.activations.shifts import shift
    from interp.logits.attribution import attribute
    from interp.logits.direction import logit_direction
    from interp.logits.entanglement import entanglement
    from interp.logits.lens import lens
    from interp.logits.moved import moved_tokens
    from interp.logits.spectrum import spectrum
    from interp.logits.tokens import token_shift
    from interp.models.language import load_model
    from interp.models.lineage import Lineage
    from interp.organisms.evaluation import margin, preference
    from interp.organisms.library import load_lineage
    from interp.organisms.sampling import sample_numbers
    from interp.organisms.teachers import fine_tune_teacher, neutral_teacher, prompted_teacher
    from interp.organisms.training import Recipe, train_student
    from interp.prompts.numbers import number_prompts
    from interp.prompts.text import Prompts
    from interp.prompts.traits import get_trait, make_trait
    from interp.report import write_report
    from interp.runs import InputError, Run

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "Lineage",
    "Prompts",
    "Recipe",
    "Run",
    "ablate",
    "attribute",
    "entanglement",
    "fine_tune_teacher",
    "get_trait",
    "lens",
    "load_lineage",
    "load_model",
    "logit_direction",
    "make_trait",
    "margin",
    "moments",
    "moved_tokens",
    "neutral_teacher",
    "number_prompts",
    "patch",
    "preference",
    "prompted_teacher",
    "record",
    "sample_numbers",
    "shift",
    "spectrum",
    "steer",
    "token_shift",
    "train_student",
    "write_report",
]

_WHERE = {
    "interp.activations.interventions": ("ablate", "patch", "steer"),
    "interp.activations.record": ("moments", "record"),
    "interp.activations.shifts": ("shift",),
    "interp.logits.attribution": ("attribute",),
    "interp.logits.direction": ("logit_direction",),
    "interp.logits.entanglement": ("entanglement",),
    "interp.logits.lens": ("lens",),
    "interp.logits.moved": ("moved_tokens",),
    "interp.logits.spectrum": ("spectrum",),
    "interp.logits.tokens": ("token_shift",),
    "interp.models.language": ("load_model",),
    "interp.models.lineage": ("Lineage",),
    "interp.organisms.evaluation": ("margin", "preference"),
    "interp.organisms.library": ("load_lineage",),
    "interp.organisms.sampling": ("sample_numbers",),
    "interp.organisms.teachers": ("fine_tune_teacher", "neutral_teacher", "prompted_teacher"),
    "interp.organisms.training": ("Recipe", "train_student"),
    "interp.prompts.numbers": ("number_prompts",),
    "interp.prompts.text": ("Prompts",),
    "interp.prompts.traits": ("get_trait", "make_trait"),
    "interp.report": ("write_report",),
    "interp.runs": ("InputError", "Run"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
