import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.ship.fleet.inventory import Device, Halt
from edgekd.ship.fleet.waves import halt_reason, planned_waves


def devices(count, canaries=()):
    return [Device(id=f"d{n}", address=f"a@d{n}", group="g", canary=n in canaries) for n in range(count)]


def names(wave):
    return [device.id for device in wave.devices]


def test_canaries_then_a_tenth_then_the_rest():
    waves = planned_waves(("canary", "10%", "100%"), devices(30, canaries=(4, 9)))
    assert [wave.name for wave in waves] == ["canary", "10%", "100%"]
    assert names(waves[0]) == ["d4", "d9"]
    assert names(waves[1]) == ["d0"], "a tenth of 30 is 3, two of them are canaries"
    assert len(waves[2].devices) == 27


def test_without_a_marked_canary_the_first_is_taken_and_said():
    wave = planned_waves(("canary", "100%"), devices(3))[0]
    assert names(wave) == ["d0"]
    assert "no device is marked" in wave.note


def test_a_group_of_one_is_one_wave():
    assert [names(wave) for wave in planned_waves(("canary", "10%", "100%"), devices(1))] == [["d0"]]


def test_no_devices_no_waves():
    assert planned_waves(("canary", "10%", "100%"), []) == ()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 300),
    st.sets(st.integers(0, 299), max_size=20),
    st.lists(st.integers(1, 99), max_size=4, unique=True).map(sorted),
)
def test_every_device_is_in_one_wave_and_shares_are_reached(count, canaries, shares):
    plan = ["canary", *(f"{share}%" for share in shares), "100%"]
    all_of_them = devices(count, canaries)
    waves = planned_waves(plan, all_of_them)
    listed = [device.id for wave in waves for device in wave.devices]
    assert sorted(listed) == sorted(device.id for device in all_of_them)
    assert all(wave.devices for wave in waves)
    done = 0
    for wave in waves:
        done += len(wave.devices)
        if wave.name != "canary":
            assert done >= math.ceil(count * int(wave.name[:-1]) / 100)


@pytest.mark.parametrize(
    ("in_all", "in_wave", "size", "word"),
    [(2, 1, 10, ""), (3, 1, 10, "max_failures"), (2, 2, 10, "max_failed_share"), (0, 0, 10, ""), (0, 0, 0, "")],
)
def test_halt_rules(in_all, in_wave, size, word):
    reason = halt_reason(
        Halt(max_failures=2, max_failed_share=0.1), failed_in_all=in_all, failed_in_wave=in_wave, wave_size=size
    )
    assert (word in reason) if word else not reason
