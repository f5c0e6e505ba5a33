"""Time never runs backwards for a device, and no wrong clock, its own or the host's, locks it out for good."""

from datetime import timedelta

import pytest
from edgekd_agent.trust import TrustError
from tuf_repository import BUILT, NOW

DAY = timedelta(days=1)


def _kind(device) -> str:
    with pytest.raises(TrustError) as caught:
        device.ask()
    return caught.value.kind


def test_device_without_a_battery_installs_though_its_clock_says_1970(device):
    device.now = BUILT.replace(year=1970)
    assert device.ask().version == 3


def test_build_time_is_a_floor(device, repository):
    repository.timestamp.expires = BUILT - DAY
    repository.signed_at = BUILT - 2 * DAY
    device.push(repository.pour())
    device.now = BUILT.replace(year=1970)
    assert _kind(device) == "expired"


def test_seen_time_is_a_floor_that_survives_a_restart(device, repository):
    device.ask()
    device.now = BUILT
    repository.timestamp.expires = NOW - timedelta(hours=2)
    repository.signed_at = NOW - timedelta(hours=3)
    repository.bump()
    device.push(repository.pour())
    assert _kind(device) == "expired"


def test_floor_never_falls(device, repository):
    device.ask()
    repository.signed_at = NOW - 20 * DAY
    repository.bump()
    device.push(repository.pour())
    device.ask()
    assert b"2026-03-01T11:00:00Z" in (device.trust / "clock.json").read_bytes()


def test_clock_far_in_the_future_is_named_and_forgotten_when_it_is_right_again(device):
    device.ask()
    before = device.state()
    device.now = NOW + timedelta(days=365 * 60)
    assert _kind(device) == "clock"
    assert device.state() == before
    device.now = NOW
    assert device.ask().version == 3


def test_clock_a_little_ahead_is_an_expiry_like_any_other(device):
    device.now = NOW + 30 * DAY
    assert _kind(device) == "expired"


def test_host_that_signed_in_the_far_future_is_recovered_from_by_new_online_keys(device, repository):
    future = NOW + timedelta(days=365 * 60)
    end = repository.timestamp.expires
    repository.signed_at = future
    repository.timestamp.expires = future + 7 * DAY
    repository.bump("timestamp")
    device.push(repository.pour())
    device.ask()
    repository.signed_at, repository.timestamp.expires = NOW, end
    repository.bump("timestamp")
    device.push(repository.pour())
    assert _kind(device) == "expired"
    repository.root.version = 2
    repository.new_keys("timestamp")
    repository.sign_root()
    device.push(repository.pour())
    assert device.ask().version == 3
    assert b"2026-03-01T12:00:00Z" in (device.trust / "clock.json").read_bytes()


def test_expired_metadata_can_be_followed_by_fresh_ones(device, repository):
    device.ask()
    device.now = NOW + 30 * DAY
    assert _kind(device) == "expired"
    for payload in (repository.timestamp, repository.snapshot, repository.targets, *repository.groups.values()):
        payload.expires = NOW + 60 * DAY
    repository.signed_at = NOW + 30 * DAY
    repository.bump()
    device.push(repository.pour())
    assert device.ask().version == 3
