from .auditor import WHO as WHO, Audit as Audit, AuditRecipe as AuditRecipe, audit as audit
from .pilots import Pilot as Pilot
