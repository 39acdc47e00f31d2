"""Plain frames and arrays in, plotly figures and token HTML out; and `Result`, the table every verb returns.

One grammar for the whole package: a role has one colour, one marker, one dash and one hatching, so that roles stay
apart for colour-blind readers and on grey paper; values about zero have diverging RdBu_r colours, limit = max |value|,
and their sign is printed; every axis has its unit and every whisker its name; fewer than 30 values are points.
Figures are returned, nothing is global, and all text that comes from data is escaped.
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
