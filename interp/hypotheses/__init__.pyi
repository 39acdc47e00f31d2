from .claims import Hypothesis as Hypothesis
from .families import Family as Family, family as family
from .subject import Subject as Subject
