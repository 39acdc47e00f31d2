from .demonstration import demo as demo
from .freezing import freeze as freeze, stale as stale
from .inherited_trace import AGREED as AGREED
from .judged_peers import peer_scores as peer_scores
from .judged_tokens import token_scores as token_scores
from .kept_analyses import analysis as analysis
from .lemma import lemma_sweep as lemma_sweep
from .naming import naming_table as naming_table
from .number_matching import divergence_numbers as divergence_numbers
from .one_direction import mediation as mediation
from .registry import family as family
from .shared_initialisation import init_matrix as init_matrix
from .testing import test as test, tested_run as tested_run
from .token_matching import divergence_tokens as divergence_tokens
