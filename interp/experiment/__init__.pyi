from .arms import Arms as Arms
from .defending import defended as defended, train_defended as train_defended
from .matrix import matrix_file as matrix_file, transfer_matrix as transfer_matrix
from .recipe import read_experiment as read_experiment
from .run import run_experiment as run_experiment
from .transfer_claims import margins_figure as margins_figure
