"""What was signed for this device is believed, kept durably, and nothing else is."""

from edgekd_agent.trust import desired_release, trusted_root_version

from .conftest import BUILT, DEVICE, NOW


def test_signed_release_is_told_with_its_manifest_and_its_end(place, simulator, valid_bytes):
    release = desired_release(place.trust, place.staging, DEVICE, now=NOW, clock_floor=BUILT)
    assert (release.group, release.name, release.version) == ("canary", "digits-student", 3)
    assert release.bundle_bytes == valid_bytes
    assert release.manifest.targets[0].sm == 87
    assert release.signed_until == simulator.timestamp.expires
    assert trusted_root_version(place.trust) == 1
