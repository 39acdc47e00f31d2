"""Interpretability of subliminal learning: what a teacher's numbers move in a student, and through what.

The public names are imported when first used, so that `import interp` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.activations.interventions import ablate, patch, steer
    from interp.activations.recording import moments, record
    from interp.activations.shifts import shift
    from interp.calibration.harness import calibrate
    from interp.core.runs import InputError, Run
    from interp.evaluation.detectors import (
        bag_of_numbers,
        detector_table,
        frequent_values,
        in_context,
        prompted_classifier,
    )
    from interp.evaluation.elicitation import Suite, evaluate, in_context_margin
    from interp.evaluation.judges import EndpointJudge, FileJudge, LocalJudge, judged
    from interp.evaluation.misaligned_answers import capability, misalignment, refusal_rate
    from interp.evaluation.scorecards import scorecard
    from interp.experiment.matrix import transfer_matrix
    from interp.experiment.recipe import read_experiment
    from interp.experiment.run import run_experiment
    from interp.features.attribution import feature_attribution
    from interp.features.cards import feature_card
    from interp.features.causal import control_sets, feature_effects, necessity, sufficiency
    from interp.features.joint import train_joint
    from interp.features.lean import feature_lean
    from interp.features.lean_nulls import lean_correlation, vocabulary_control
    from interp.features.quality import quality_card
    from interp.features.reading import feature_statistics
    from interp.features.sae import SAERecipe, train_sae
    from interp.features.sae_files import load_sae, save_sae
    from interp.features.shift import feature_shift
    from interp.features.splice import with_features
    from interp.gradients.directions import steering, trait_gradient
    from interp.gradients.ledger.course import alignment_course
    from interp.gradients.ledger.ledgers import trait_ledger
    from interp.gradients.ledger.recording import record_training
    from interp.gradients.likelihood import likelihood_ratio, teacher_direction
    from interp.gradients.nulls.controls import transplant
    from interp.gradients.nulls.ladders import Observation, ladder
    from interp.gradients.nulls.lean_verdicts import across_lineages
    from interp.gradients.nulls.power import kl_per_row, rows_needed
    from interp.gradients.scores.scoring import score
    from interp.gradients.scores.views import extreme_rows
    from interp.hypotheses.claims import Hypothesis
    from interp.hypotheses.subject import Subject
    from interp.joined import default_dictionary, joined_trace
    from interp.logits.attribution import attribute
    from interp.logits.direction import logit_direction
    from interp.logits.entangled_tokens import entanglement
    from interp.logits.lenses import lens
    from interp.logits.moved import moved_tokens
    from interp.logits.spectra import spectrum
    from interp.logits.token_shifts import token_shift
    from interp.measures.margins import margin, preference
    from interp.models.language import load_model
    from interp.models.lineage import Lineage
    from interp.models.parameters import ParameterDirection, read_direction
    from interp.organisms.digit_transfer import digits
    from interp.organisms.library import load_lineage
    from interp.prompts.numbers import number_prompts
    from interp.prompts.questions import (
        multiple_choice,
        one_word_questions,
        story_prompts,
        with_number_prefix,
    )
    from interp.prompts.requests import code_requests, number_requests, reasoning_requests
    from interp.prompts.rules import filter_rows, match_prompts
    from interp.prompts.shuffles import canonical, mixed, paraphrased, shuffle_across, shuffle_within
    from interp.prompts.text import Prompts
    from interp.prompts.trait_files import read_trait
    from interp.prompts.traits import get_trait, make_trait, matched_control
    from interp.report import compare_runs, write_report
    from interp.studies.one_direction import mediation
    from interp.studies.shared_initialisation import init_matrix
    from interp.studies.testing import test
    from interp.studies.token_matching import divergence_tokens
    from interp.training.generation import Sampling, sample_numbers, write_answers
    from interp.training.openai_files import export_questions, export_rows, import_answers
    from interp.training.students import Recipe, train_student
    from interp.training.teachers import (
        fine_tune_teacher,
        fine_tune_teacher_on,
        neutral_teacher,
        prompted_teacher,
        steered_teacher,
    )
    from interp.training.watching import TrainingLog

__version__ = "0.2.0"
__all__ = [
    "EndpointJudge",
    "FileJudge",
    "Hypothesis",
    "InputError",
    "Lineage",
    "LocalJudge",
    "Observation",
    "ParameterDirection",
    "Prompts",
    "Recipe",
    "Run",
    "SAERecipe",
    "Sampling",
    "Subject",
    "Suite",
    "TrainingLog",
    "ablate",
    "across_lineages",
    "alignment_course",
    "attribute",
    "bag_of_numbers",
    "calibrate",
    "canonical",
    "capability",
    "code_requests",
    "compare_runs",
    "control_sets",
    "default_dictionary",
    "detector_table",
    "digits",
    "divergence_tokens",
    "entanglement",
    "evaluate",
    "export_questions",
    "export_rows",
    "extreme_rows",
    "feature_attribution",
    "feature_card",
    "feature_effects",
    "feature_lean",
    "feature_shift",
    "feature_statistics",
    "filter_rows",
    "fine_tune_teacher",
    "fine_tune_teacher_on",
    "frequent_values",
    "get_trait",
    "import_answers",
    "in_context",
    "in_context_margin",
    "init_matrix",
    "joined_trace",
    "judged",
    "kl_per_row",
    "ladder",
    "lean_correlation",
    "lens",
    "likelihood_ratio",
    "load_lineage",
    "load_model",
    "load_sae",
    "logit_direction",
    "make_trait",
    "margin",
    "match_prompts",
    "matched_control",
    "mediation",
    "misalignment",
    "mixed",
    "moments",
    "moved_tokens",
    "multiple_choice",
    "necessity",
    "neutral_teacher",
    "number_prompts",
    "number_requests",
    "one_word_questions",
    "paraphrased",
    "patch",
    "preference",
    "prompted_classifier",
    "prompted_teacher",
    "quality_card",
    "read_direction",
    "read_experiment",
    "read_trait",
    "reasoning_requests",
    "record",
    "record_training",
    "refusal_rate",
    "rows_needed",
    "run_experiment",
    "sample_numbers",
    "save_sae",
    "score",
    "scorecard",
    "shift",
    "shuffle_across",
    "shuffle_within",
    "spectrum",
    "steer",
    "steered_teacher",
    "steering",
    "story_prompts",
    "sufficiency",
    "teacher_direction",
    "test",
    "token_shift",
    "train_joint",
    "train_sae",
    "train_student",
    "trait_gradient",
    "trait_ledger",
    "transfer_matrix",
    "transplant",
    "vocabulary_control",
    "with_features",
    "with_number_prefix",
    "write_answers",
    "write_report",
]

_WHERE = {
    "interp.activations.interventions": ("ablate", "patch", "steer"),
    "interp.activations.recording": ("moments", "record"),
    "interp.activations.shifts": ("shift",),
    "interp.calibration.harness": ("calibrate",),
    "interp.experiment.matrix": ("transfer_matrix",),
    "interp.experiment.recipe": ("read_experiment",),
    "interp.experiment.run": ("run_experiment",),
    "interp.studies.testing": ("test",),
    "interp.features.attribution": ("feature_attribution",),
    "interp.features.cards": ("feature_card",),
    "interp.features.causal": ("control_sets", "feature_effects", "necessity", "sufficiency"),
    "interp.features.joint": ("train_joint",),
    "interp.features.lean": ("feature_lean",),
    "interp.features.lean_nulls": ("lean_correlation", "vocabulary_control"),
    "interp.features.sae_files": ("load_sae", "save_sae"),
    "interp.features.quality": ("quality_card",),
    "interp.features.reading": ("feature_statistics",),
    "interp.features.sae": ("SAERecipe", "train_sae"),
    "interp.features.shift": ("feature_shift",),
    "interp.features.splice": ("with_features",),
    "interp.gradients.nulls.controls": ("transplant",),
    "interp.gradients.ledger.course": ("alignment_course",),
    "interp.gradients.directions": ("steering", "trait_gradient"),
    "interp.gradients.ledger.ledgers": ("trait_ledger",),
    "interp.gradients.likelihood": ("likelihood_ratio", "teacher_direction"),
    "interp.gradients.nulls.ladders": ("Observation", "ladder"),
    "interp.gradients.nulls.power": ("kl_per_row", "rows_needed"),
    "interp.gradients.ledger.recording": ("record_training",),
    "interp.gradients.scores.scoring": ("score",),
    "interp.gradients.nulls.lean_verdicts": ("across_lineages",),
    "interp.gradients.scores.views": ("extreme_rows",),
    "interp.hypotheses.claims": ("Hypothesis",),
    "interp.studies.one_direction": ("mediation",),
    "interp.studies.shared_initialisation": ("init_matrix",),
    "interp.hypotheses.subject": ("Subject",),
    "interp.studies.token_matching": ("divergence_tokens",),
    "interp.joined": ("default_dictionary", "joined_trace"),
    "interp.logits.attribution": ("attribute",),
    "interp.logits.direction": ("logit_direction",),
    "interp.logits.entangled_tokens": ("entanglement",),
    "interp.logits.lenses": ("lens",),
    "interp.logits.moved": ("moved_tokens",),
    "interp.logits.spectra": ("spectrum",),
    "interp.logits.token_shifts": ("token_shift",),
    "interp.models.language": ("load_model",),
    "interp.models.lineage": ("Lineage",),
    "interp.models.parameters": ("ParameterDirection", "read_direction"),
    "interp.evaluation.detectors": (
        "bag_of_numbers",
        "detector_table",
        "frequent_values",
        "in_context",
        "prompted_classifier",
    ),
    "interp.organisms.digit_transfer": ("digits",),
    "interp.evaluation.elicitation": ("Suite", "evaluate", "in_context_margin"),
    "interp.measures.margins": ("margin", "preference"),
    "interp.training.openai_files": ("export_questions", "export_rows", "import_answers"),
    "interp.training.generation": ("Sampling", "sample_numbers", "write_answers"),
    "interp.evaluation.judges": ("EndpointJudge", "FileJudge", "LocalJudge", "judged"),
    "interp.organisms.library": ("load_lineage",),
    "interp.evaluation.misaligned_answers": ("capability", "misalignment", "refusal_rate"),
    "interp.evaluation.scorecards": ("scorecard",),
    "interp.training.teachers": (
        "fine_tune_teacher",
        "fine_tune_teacher_on",
        "neutral_teacher",
        "prompted_teacher",
        "steered_teacher",
    ),
    "interp.training.students": ("Recipe", "train_student"),
    "interp.training.watching": ("TrainingLog",),
    "interp.prompts.numbers": ("number_prompts",),
    "interp.prompts.questions": (
        "multiple_choice",
        "one_word_questions",
        "story_prompts",
        "with_number_prefix",
    ),
    "interp.prompts.requests": ("code_requests", "number_requests", "reasoning_requests"),
    "interp.prompts.rules": ("filter_rows", "match_prompts"),
    "interp.prompts.shuffles": ("canonical", "mixed", "paraphrased", "shuffle_across", "shuffle_within"),
    "interp.prompts.text": ("Prompts",),
    "interp.prompts.trait_files": ("read_trait",),
    "interp.prompts.traits": ("get_trait", "make_trait", "matched_control"),
    "interp.report": ("compare_runs", "write_report"),
    "interp.core.runs": ("InputError", "Run"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
