import numpy as np
import pytest

from edgekd.profile.steady import FEWEST_RUNS, drift_of, is_steady


def runs_until_steady(latency_of_run):
    samples = []
    while not is_steady(samples):
        samples.append(latency_of_run(len(samples)))
        assert len(samples) < 2000
    return len(samples)


def test_constant_latency_is_steady_as_soon_as_three_windows_are_full():
    assert runs_until_steady(lambda _: 1.0) == FEWEST_RUNS


@pytest.mark.parametrize("ramp", [100, 400])
def test_warm_up_lasts_as_long_as_latency_falls(ramp):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.005, 2000)
    runs = runs_until_steady(lambda run: max(2.0 - run / ramp, 1.0) * (1 + noise[run]))
    assert ramp < runs < ramp + 2 * FEWEST_RUNS


def test_a_latency_that_grows_is_not_waited_for():
    assert runs_until_steady(lambda run: 1.0 + run) == FEWEST_RUNS


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_noise_does_not_keep_it_warming_up(noise):
    rng = np.random.default_rng(1)
    counts = [runs_until_steady(lambda _: float(rng.lognormal(0, noise))) for _ in range(100)]
    assert np.mean(counts) < 1.2 * FEWEST_RUNS


@pytest.mark.parametrize(("end", "is_seen"), [(1.5, True), (0.5, True), (1.01, False), (1.0, False)])
def test_drift_is_seen_where_the_ends_differ(end, is_seen):
    rng = np.random.default_rng(2)
    samples = np.linspace(1.0, end, 90) * rng.lognormal(0, 0.002, 90)
    drift = drift_of(samples.tolist())
    assert drift.is_seen is is_seen
    assert drift.change == pytest.approx((end - 1) * 2 / 3, abs=0.05 + 0.4 * abs(end - 1))


def test_noise_is_no_drift():
    rng = np.random.default_rng(3)
    seen = [drift_of(rng.lognormal(0, 0.1, 300).tolist()).is_seen for _ in range(200)]
    assert np.mean(seen) < 0.05


def test_short_series_have_no_drift():
    assert drift_of([1.0] * 29) is None
