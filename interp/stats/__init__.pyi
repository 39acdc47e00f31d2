from .exchanges import standardised as standardised
from .matching import matched_halves as matched_halves
from .slopes import within_slope as within_slope
from .tests import (
    auroc as auroc,
    benjamini_hochberg as benjamini_hochberg,
    equivalence_test as equivalence_test,
    permutation_test as permutation_test,
    sign_flip_test as sign_flip_test,
    t_interval as t_interval,
    wilson_interval as wilson_interval,
)
from .verdict import (
    Verdict as Verdict,
    check_verdict as check_verdict,
    equivalence_verdict as equivalence_verdict,
    p_told as p_told,
    paired_verdict as paired_verdict,
)
