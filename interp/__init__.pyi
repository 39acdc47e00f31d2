# nouns, verbs, and the rooms they come from; what is not here is in its room: interp.gradients.ladder
from . import (
    activations as activations,
    auditing as auditing,
    calibration as calibration,
    cli as cli,
    core as core,
    discovery as discovery,
    evaluation as evaluation,
    experiment as experiment,
    features as features,
    figures as figures,
    gradients as gradients,
    hypotheses as hypotheses,
    joined as joined,
    logits as logits,
    measures as measures,
    models as models,
    organisms as organisms,
    prompts as prompts,
    report as report,
    stats as stats,
    studies as studies,
    training as training,
)
from .activations.arrays import Activations as Activations, Direction as Direction
from .activations.interventions import ablate as ablate, patch as patch, steer as steer
from .activations.recording import record as record
from .activations.shifts import shift as shift
from .auditing.auditor import audit as audit
from .calibration.harness import calibrate as calibrate
from .core.errors import InputError as InputError
from .core.runs import Run as Run
from .discovery.discovering import discover as discover
from .evaluation.elicitation import evaluate as evaluate
from .experiment.recipe import read_experiment as read_experiment
from .experiment.run import run_experiment as run_experiment
from .features.lean import feature_lean as feature_lean
from .features.sae import train_sae as train_sae
from .features.sae_files import load_sae as load_sae
from .features.shift import feature_shift as feature_shift
from .figures.results import Result as Result
from .gradients.directions import trait_gradient as trait_gradient
from .gradients.ledger.ledgers import trait_ledger as trait_ledger
from .gradients.representations import representation_gradient as representation_gradient
from .gradients.scores.scoring import score as score
from .hypotheses.claims import Hypothesis as Hypothesis
from .joined.agreeing import agreement as agreement
from .joined.table import joined_trace as joined_trace
from .joined.tracing import trace as trace
from .logits.attribution import attribute as attribute
from .logits.direction import logit_direction as logit_direction
from .logits.entangled_tokens import entanglement as entanglement
from .logits.lenses import lens as lens
from .logits.moved import moved_tokens as moved_tokens
from .logits.spectra import spectrum as spectrum
from .logits.token_shifts import token_shift as token_shift
from .logits.trainings import attribute_over as attribute_over, lens_over as lens_over
from .measures.margins import margin as margin
from .models.language import load_model as load_model
from .models.lineage import Lineage as Lineage
from .models.parameters import ParameterDirection as ParameterDirection
from .models.seam import Model as Model
from .organisms.library import load_lineage as load_lineage
from .prompts.numbers import number_prompts as number_prompts
from .prompts.text import Prompts as Prompts
from .prompts.traits import Trait as Trait, get_trait as get_trait
from .report.compare import compare_runs as compare_runs
from .report.page import write_report as write_report
from .stats.verdict import Verdict as Verdict
from .studies.demonstration import demo as demo
from .studies.testing import test as test
from .training.students import Recipe as Recipe, train_student as train_student

__version__: str
