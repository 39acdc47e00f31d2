from .digit_data import CLASSES as CLASSES, DigitImages as DigitImages, load_digits as load_digits
from .digit_networks import EMBEDDED as EMBEDDED, MNIST as MNIST, DigitsRecipe as DigitsRecipe
from .digit_transfer import SWEEPS as SWEEPS, digits as digits, transfer_sweep as transfer_sweep
from .library import (
    QUICK_TOY as QUICK_TOY,
    TOY as TOY,
    ToyRecipe as ToyRecipe,
    grow as grow,
    load_lineage as load_lineage,
)
