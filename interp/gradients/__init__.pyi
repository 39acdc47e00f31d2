from .datamodels import DatamodelingScore as DatamodelingScore, datamodeling_score as datamodeling_score
from .directions import (
    margin_objective as margin_objective,
    steering as steering,
    trait_gradient as trait_gradient,
)
from .influences import influence as influence
from .ledger.course import alignment_course as alignment_course
from .ledger.ledgers import Ledger as Ledger, trait_ledger as trait_ledger
from .ledger.projection import Placebo as Placebo, Removal as Removal
from .ledger.recording import record_training as record_training
from .likelihood import likelihood_ratio as likelihood_ratio, teacher_direction as teacher_direction
from .metagradients import metagradient as metagradient
from .nulls.controls import transplant as transplant
from .nulls.ladders import Observation as Observation, ladder as ladder
from .nulls.lean_verdicts import LeanVerdict as LeanVerdict, across_lineages as across_lineages
from .nulls.power import kl_per_row as kl_per_row, rows_needed as rows_needed
from .nulls.samples import Sample as Sample
from .representations import (
    representation_gradient as representation_gradient,
    representation_objective as representation_objective,
)
from .scores.number_scores import score_numbers as score_numbers
from .scores.scoring import Scores as Scores, score as score
from .scores.views import extreme_rows as extreme_rows
from .token_datamodels import token_datamodeling_score as token_datamodeling_score
from .written import BackwardLens as BackwardLens, backward_lens as backward_lens
