"""A run folder as one self-contained page: the verdicts, the picture that matters, the trace, how it was made.

page = template(style, script, plotly.js, escaped pieces of the run): a function of the artefacts, without times or
durations, so that the same run gives the same bytes.
"""

from interp.report.compare import compare_runs
from interp.report.page import write_report

__all__ = ["compare_runs", "write_report"]
