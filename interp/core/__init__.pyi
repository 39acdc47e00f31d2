from .content import digest as digest, json_text as json_text
from .errors import InputError as InputError, nearest as nearest
from .processes import sweep as sweep
from .provenance import doctor as doctor, versions as versions
from .runs import Cache as Cache, Run as Run, write_atomic as write_atomic
