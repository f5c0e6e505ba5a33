"""What is published reaches the devices of its group, and publishing is repeatable and refuses confusion."""

from datetime import timedelta

from edgekd.ship.trust import publish

from .conftest import START


def test_device_of_the_group_is_told_to_run_what_was_published(field, bundle):
    published = publish(field.repo, field.keys, bundle, "canary", now=START)
    field.push()
    release = field.release()
    assert (release.name, release.version) == ("digits-student", 1)
    assert release.bundle_sha256 == published.bundle_sha256
    assert release.bundle_bytes == (bundle / "bundle.json").read_bytes()
    assert release.signed_until == published.signed_until == START + timedelta(days=14)
