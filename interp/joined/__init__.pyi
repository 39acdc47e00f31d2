from .agreeing import agreement as agreement
from .sources import default_dictionary as default_dictionary
from .table import joined_trace as joined_trace
from .tracing import trace as trace, trace_files as trace_files
from .view import joined_figure as joined_figure
