from .comparing import Comparison as Comparison, Reading as Reading
from .discovering import READINGS as READINGS, Discovery as Discovery, discover as discover
