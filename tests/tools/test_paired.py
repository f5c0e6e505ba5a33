"""Paired comparisons against SciPy's own and against enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

ONE = {0: 83.1, 1: 82.4, 2: 84.0, 3: 83.3, 4: 82.9}
OTHER = {0: 82.0, 1: 82.9, 2: 82.7, 3: 82.1, 4: 82.5, 9: 10.0}


def test_the_interval_is_that_of_a_paired_t_test(bench):
    found = bench("paired").paired(ONE, OTHER)
    test = stats.ttest_rel([ONE[seed] for seed in range(5)], [OTHER[seed] for seed in range(5)])
    low, high = test.confidence_interval(0.95)
    assert found.mean == pytest.approx((low + high) / 2)
    assert found.margin == pytest.approx((high - low) / 2)
    assert (found.better, found.seeds) == (4, 5)


def test_the_signed_rank_p_is_that_of_all_sign_flips(bench):
    differences = np.array([ONE[seed] - OTHER[seed] for seed in range(5)])
    ranks = stats.rankdata(abs(differences))
    flips = np.array(list(itertools.product([-1, 1], repeat=5)))
    observed = abs((ranks * np.sign(differences)).sum())
    expected = np.mean(abs(flips @ ranks) >= observed - 1e-9)
    assert bench("paired").paired(ONE, OTHER).wilcoxon_p == pytest.approx(expected)


def test_equal_methods_and_single_seeds_prove_nothing(bench):
    paired = bench("paired").paired
    same = paired(ONE, ONE)
    assert (same.mean, same.margin, same.better, same.wilcoxon_p, same.verdict) == (0, 0, 0, 1, "-")
    single = paired({0: 90.0}, OTHER)
    assert single.mean == 8 and math.isinf(single.margin) and single.verdict == "-"
    assert paired({7: 1.0}, OTHER) is None


@pytest.mark.parametrize(("sign", "verdict"), [(1, "better"), (-1, "worse")])
def test_the_verdict_needs_an_interval_without_zero(bench, sign, verdict):
    shifted = {seed: value + sign * (3 + 0.1 * seed) for seed, value in ONE.items()}
    assert bench("paired").paired(shifted, ONE).verdict == verdict
    assert bench("paired").paired(ONE, OTHER).verdict == "-"
