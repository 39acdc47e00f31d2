"""The joined trace: of every token of a row what the teacher made likelier, which features moved, and where its
gradient leans; of every row what training on it did to the student's trait margin.
"""

from interp.joined.sources import default_dictionary
from interp.joined.table import joined_trace
from interp.joined.view import joined_figure

__all__ = ["default_dictionary", "joined_figure", "joined_trace"]
