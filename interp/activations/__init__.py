"""Reading activations (`record`, `moments`, `shift`) and editing them (`steer`, `ablate`, `patch`)."""

from interp.activations.arrays import Activations, Direction
from interp.activations.interventions import ablate, patch, steer
from interp.activations.recording import Moments, moments, record
from interp.activations.shifts import Shift, shift

__all__ = [
    "Activations",
    "Direction",
    "Moments",
    "Shift",
    "ablate",
    "moments",
    "patch",
    "record",
    "shift",
    "steer",
]
