from .comparing import Compared as Compared, Reading as Reading
from .discovering import READINGS as READINGS, Discovery as Discovery, discover as discover
