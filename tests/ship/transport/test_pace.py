import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.ship.transport.pace import MAX_REQUEST_BYTES, MAX_REQUESTS, Pace

KIB = 1 << 10


def test_a_fast_link_fills_up_to_the_limit():
    pace = Pace(255 * KIB)
    for _ in range(30):
        pace.acknowledged(0.01)
    assert pace.window_bytes == 255 * KIB * MAX_REQUESTS
    assert pace.request_bytes == 255 * KIB
    assert MAX_REQUESTS <= 64


def test_a_slow_link_goes_down_to_16_kib_and_one_write():
    pace = Pace()
    for _ in range(30):
        pace.acknowledged(0.01)
    for _ in range(30):
        pace.acknowledged(20.0)
    assert pace.window_bytes == pace.request_bytes == 16 * KIB
    assert pace.allows(0)
    assert not pace.allows(1)


def test_a_window_that_fits_stays():
    pace = Pace()
    before = pace.window_bytes
    pace.acknowledged(3.0)
    assert pace.window_bytes == before


def test_a_link_of_1_kb_a_second_is_never_given_more_than_it_passes_in_half_a_minute():
    pace, queued, clock = Pace(), 0, 0.0
    under_way = []
    for _ in range(200):
        while pace.allows(queued):
            under_way.append((clock, pace.request_bytes))
            queued += pace.request_bytes
        started, length = under_way.pop(0)
        clock += length / 1000
        queued -= length
        pace.acknowledged(clock - started)
        assert queued <= 33_000


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0, 100), max_size=200), st.integers(1, 1 << 20))
def test_it_never_exceeds_what_the_server_takes(acknowledgements, longest):
    pace = Pace(longest)
    for seconds in acknowledgements:
        pace.acknowledged(seconds)
        assert 0 < pace.request_bytes <= max(16 * KIB, min(longest, MAX_REQUEST_BYTES))
        assert pace.window_bytes <= max(16 * KIB, MAX_REQUEST_BYTES * MAX_REQUESTS)
        assert pace.allows(0)


@pytest.mark.parametrize("longest", [1, 1000, 16 * KIB - 1])
def test_a_server_that_takes_only_short_writes_gets_short_writes(longest):
    pace = Pace(longest)
    for _ in range(10):
        pace.acknowledged(0.0)
        assert pace.request_bytes <= longest
