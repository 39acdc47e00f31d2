from .agreement import parity as parity
from .language import LanguageModel as LanguageModel, load_model as load_model
from .lineage import Lineage as Lineage, open_lineage as open_lineage, read_lineage as read_lineage
from .low_rank import LowRank as LowRank
from .parameters import ParameterDirection as ParameterDirection, read_direction as read_direction
from .seam import Model as Model
from .updates import weight_update as weight_update
