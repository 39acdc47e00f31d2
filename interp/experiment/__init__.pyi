from .demonstration import demo as demo, margins_figure as margins_figure
from .matrix import matrix_file as matrix_file, transfer_matrix as transfer_matrix
from .recipe import read_recipe as read_recipe
from .run import run_recipe as run_recipe
