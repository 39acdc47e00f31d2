from .arrays import Activations as Activations, Direction as Direction
from .interventions import ablate as ablate, patch as patch, steer as steer
from .recording import Moments as Moments, moments as moments, record as record
from .representations import trait_representations as trait_representations
from .shifts import Shift as Shift, shift as shift
