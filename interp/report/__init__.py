"""A run folder as one self-contained page: the verdicts, the picture that matters, the trace, how it was made.

page = template(style, script, plotly.js, escaped pieces of the run): a function of the artefacts, without times or
durations, so that the same run gives the same bytes.
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
