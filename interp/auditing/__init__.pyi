from .auditor import WHO as WHO, Audit as Audit, AuditRecipe as AuditRecipe, audit as audit
from .channels import audit_channels as audit_channels
from .forecasts import Forecast as Forecast, fit_forecast as fit_forecast, read_forecast as read_forecast
from .neutral import written_by as written_by
from .pilots import Pilot as Pilot
from .placebos import (
    Placebos as Placebos,
    StudentAudit as StudentAudit,
    audit_student as audit_student,
    placebo_students as placebo_students,
)
from .sifting import sift_rows as sift_rows
