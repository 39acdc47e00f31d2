"""A slope within groups against arithmetic by hand, statsmodels' cluster-robust fit, and shared errors."""

import numpy as np
import pytest
from scipy.stats import t as student_t

from interp.core.runs import InputError
from interp.stats.slopes import within_slope


def test_by_hand():
    """Differences within rows of 2 and 4: the slope is their mean, 3."""

    found = within_slope([3, 1, 5, 1], [1, 0, 1, 0], groups=[0, 0, 1, 1], clusters=[7, 8, 9, 8])
    assert found.value == 3
    # residuals: row 0: -½, +½; row 1: +½, -½ (of ỹ = ±1, ±2 less 3 x̃ = ±1.5); x̃ e = -¼, -¼, ¼, ¼
    # by label: 7: -¼, 8: -¼ + ¼ = 0, 9: ¼; Σ squares = ⅛, times 3/2, Σ x̃² = 1
    assert found.standard_error == pytest.approx(np.sqrt(3 / 16))
    assert found.p == pytest.approx(student_t.sf(3 / np.sqrt(3 / 16), 2))
    assert found.clusters == 3


def test_it_is_the_cluster_robust_fit_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    rows, labels = np.repeat(np.arange(20), 10), rng.integers(30, size=200)
    x = rng.random(200) < 0.4
    y = rng.normal(size=200) + 0.3 * x + rng.normal(size=20)[rows]
    found = within_slope(y, x, groups=rows, clusters=labels)
    over, up = (
        values - np.array([values[rows == row].mean() for row in rows]) for values in (x.astype(float), y)
    )
    options = {"groups": labels, "use_correction": False}
    fit = sm.OLS(up, over).fit(cov_type="cluster", cov_kwds=options)
    assert found.value == pytest.approx(float(fit.params[0]))
    count = len(np.unique(labels))
    assert found.standard_error == pytest.approx(float(fit.bse[0]) * np.sqrt(count / (count - 1)))


def test_labels_that_share_errors_are_reported_at_the_level_and_not_more():
    """Each label has an error and a share of x of its own; taken as independent, tokens report four times too often."""

    def null(rng):
        labels, rows = rng.integers(60, size=600), np.repeat(np.arange(60), 10)
        y = rng.normal(size=60)[labels] + 0.5 * rng.normal(size=600)
        x = rng.random(600) < rng.random(60)[labels]
        return [
            within_slope(y, x, groups=rows, clusters=given).p <= 0.05 for given in (labels, np.arange(600))
        ]

    rng = np.random.default_rng(1)
    shared, alone = np.mean([null(rng) for _ in range(1000)], axis=0)
    assert 0.03 < shared < 0.08
    assert alone > 0.15


def test_errors():
    with pytest.raises(InputError, match="3 of y, 2 of x, 3 of groups, 3 of clusters; give as many of each"):
        within_slope([1, 2, 3], [0, 1], groups=[0, 0, 1], clusters=[0, 1, 2])
    with pytest.raises(InputError, match="x does not vary within any of 2 groups; give some that hold both"):
        within_slope([1, 2, 3, 4], [0, 0, 1, 1], groups=[0, 0, 1, 1], clusters=[0, 1, 2, 3])
    with pytest.raises(InputError, match="1 cluster of 4 items has no error"):
        within_slope([1, 2, 3, 4], [0, 1, 1, 0], groups=[0, 0, 1, 1], clusters=[5, 5, 5, 5])
