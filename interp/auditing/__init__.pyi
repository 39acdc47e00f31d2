from .auditor import Audit as Audit, audit as audit
from .pilots import Pilot as Pilot
