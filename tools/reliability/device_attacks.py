"""Attacks that shipping engines adds to the specification: what is signed, but for others; clocks that are wrong."""

from __future__ import annotations

import copy
from datetime import timedelta

from attack_scene import Scene, attack, resigned
from edgekd_agent.trust import Device
from tuf.api.metadata import DelegatedRole
from tuf_repository import BOARD, NOW, sample_bundle


@attack("wrong device: the desired state is for another board", "wrong-device")
def _other_board(scene: Scene) -> None:
    scene.repository.want("canary", sample_bundle(2), selectors=[{"device": "jetson-orin-nx-16gb"}])
    resigned(scene)


@attack("wrong device: the desired state is for another robot", "wrong-device")
def _other_robot(scene: Scene) -> None:
    scene.repository.want("canary", sample_bundle(2), selectors=[{"device": BOARD, "device_id": "robot-8"}])
    resigned(scene)


@attack("wrong device: a released bundle of another board, wanted by a stolen group key", "wrong-device")
def _other_bundles_board(scene: Scene) -> None:
    other = sample_bundle(5, device="jetson-orin-nx-16gb")
    scene.repository.release(other)
    scene.repository.want("canary", other, selectors=[{"device": BOARD}])
    resigned(scene)


@attack("wrong device: a device that does not say what board it is", "wrong-device")
def _no_facts(scene: Scene) -> None:
    scene.device.device = Device("robot-7", "canary", {})


@attack("wrong group: the desired state of another group, signed by it", "signature", "digest", "length")
def _other_groups_role(scene: Scene) -> None:
    scene.renamed("2.fleet.json", "2.canary.json")
    _forget(scene, "canary")


def _forget(scene: Scene, role: str) -> None:
    """Push as the attacker did, but to a device of the same group that sees this for the first time."""
    files = {path.name: path.read_bytes() for path in scene.device.staging.iterdir()}
    scene.device.provision(scene.repository.roots[1])
    scene.device.push(files)


@attack("wrong group: the desired state of this group names another", "wrong-group")
def _names_other_group(scene: Scene) -> None:
    scene.repository.want("canary", sample_bundle(2), group="fleet")
    resigned(scene)


@attack("wrong group: a group that nobody signed for", "wrong-group")
def _unknown_group(scene: Scene) -> None:
    scene.device.device = Device("robot-7", "lab", {"device": BOARD})


@attack("wrong group: one group's key signs in the folder of another", "wrong-group", "missing")
def _other_folder(scene: Scene) -> None:
    repository = scene.repository
    repository.targets.delegations.roles["lab"] = DelegatedRole("lab", [], 1, True, ["fleet/*"])
    repository.targets.add_key(repository.signers["fleet"][0].public_key, "lab")
    repository.signers["lab"] = repository.signers["fleet"]
    repository.groups["lab"] = copy.deepcopy(repository.groups["fleet"])
    scene.device.device = Device("robot-7", "lab", {"device": BOARD})
    resigned(scene)


@attack("clock: a device whose clock is far in the future", "clock")
def _far_future(scene: Scene) -> None:
    scene.device.now = NOW + timedelta(days=365 * 70)


@attack("clock: a time that was signed after its own end", "clock")
def _signed_after_end(scene: Scene) -> None:
    scene.repository.signed_at = scene.repository.timestamp.expires + timedelta(days=1)
    resigned(scene)


@attack("clock: a timestamp that does not say when it was signed", "clock")
def _no_time(scene: Scene) -> None:
    scene.repository.bump()
    files = scene.repository.pour()
    del scene.repository.timestamp.unrecognized_fields["x-edgekd-signed-at"]
    files["timestamp.json"] = scene.repository.signed(scene.repository.timestamp, scene.repository.signers["timestamp"])
    scene.brings(files)
