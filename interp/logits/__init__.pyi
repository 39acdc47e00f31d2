from .attribution import attribute as attribute
from .direction import LogitDirection as LogitDirection, logit_direction as logit_direction
from .entangled_tokens import entanglement as entanglement
from .lenses import lens as lens
from .moved import moved_tokens as moved_tokens, only_numbers as only_numbers, only_words as only_words
from .spectra import spectrum as spectrum
from .token_shifts import token_shift as token_shift
from .trainings import (
    OverTrainings as OverTrainings,
    attribute_over as attribute_over,
    lens_over as lens_over,
)
