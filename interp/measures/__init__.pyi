from .losses import LOSS_UNIT as LOSS_UNIT, answer_loss as answer_loss
from .margins import margin as margin, preference as preference
