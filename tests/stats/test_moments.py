"""Running moments against those of the whole sample."""

import numpy as np
import torch

from interp.stats.moments import Running, products, total


def test_running_moments_are_those_of_the_whole_sample():
    sample = np.random.default_rng(0).normal(1e3, 1.0, size=(50, 3))
    moments = Running()
    for row in sample:
        moments = moments.add(row)
    assert np.allclose(moments.mean, sample.mean(0))
    assert np.allclose(moments.sd(), sample.std(0, ddof=1))


def test_blocks_are_merged_whatever_is_summed():
    rows = torch.from_numpy(np.random.default_rng(1).normal(1e3, 1.0, size=(50, 3)))
    for spread, whole in ((products, 49 * rows.T.cov()), (total, float(49 * rows.var(0).sum()))):
        merged = Running.of(rows[:7], spread) + Running.of(rows[7:], spread)
        assert merged.count == 50
        assert torch.allclose(merged.mean, rows.mean(0))
        assert np.allclose(merged.squares, whole)
