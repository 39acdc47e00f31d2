from .claims import Hypothesis as Hypothesis
from .family import Family as Family
from .subject import Subject as Subject
