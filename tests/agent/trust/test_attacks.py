"""Every attack of the TUF specification by name, and those of shipping engines: refused, rightly, without a trace."""

import pytest
import tuf_attacks  # noqa: F401 - registers its attacks
from attack_scene import ATTACKS, outcome
from tuf_repository import sample_bundle

NAMES = {
    "arbitrary software", "rollback", "fast-forward", "indefinite freeze", "endless data", "extraneous dependencies",
    "mix and match", "wrong software", "malicious mirror", "slow retrieval", "key compromise", "below threshold",
    "expired root", "wrong device", "wrong group", "clock",
}  # fmt: skip


@pytest.mark.parametrize("one", ATTACKS, ids=[one.name for one in ATTACKS])
def test_attack_is_refused_for_the_right_reason_and_changes_nothing(one, tmp_path):
    kind, is_unchanged = outcome(one, tmp_path / "device")
    assert kind in one.kinds
    assert is_unchanged


def test_no_attack_of_the_specification_is_left_out():
    assert {one.name.partition(":")[0] for one in ATTACKS} == NAMES
    assert len({one.name for one in ATTACKS}) == len(ATTACKS)


def test_scene_is_one_in_which_honest_files_are_accepted(device, repository):
    """An attack proves nothing where everything is refused."""
    device.ask()
    repository.release(sample_bundle(4))
    repository.bump()
    device.push(repository.pour())
    assert device.ask().version == 4
