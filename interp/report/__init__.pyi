from .compare import compare_runs as compare_runs
from .page import write_report as write_report
