from .agreeing import agreement as agreement
from .installed import (
    BIAS as BIAS,
    BiasRecipe as BiasRecipe,
    compare_directions as compare_directions,
    fitted_direction as fitted_direction,
    installed_direction as installed_direction,
)
from .sources import default_dictionary as default_dictionary
from .table import joined_trace as joined_trace
from .tracing import trace as trace, trace_files as trace_files
from .view import joined_figure as joined_figure
