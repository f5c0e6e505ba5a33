"""Attacks by name, and the device they are tried on: it has accepted release 2 of a repository and runs an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekd_agent.trust import TrustError
from tuf_device import TrustingDevice
from tuf_repository import Repository, sample_bundle


@dataclass
class Scene:
    """What an attack works with.

    Attributes:
        repository: As the device last saw it; the attacker may have some of its keys.
        device: The device.
        old: What was brought to it for release 1.
        current: What was brought to it for release 2.
    """

    repository: Repository
    device: TrustingDevice
    old: dict[str, bytes]
    current: dict[str, bytes]

    def brings(self, files: dict[str, bytes]) -> None:
        """Bring these files instead."""
        self.device.push(files)

    def renamed(self, source: str, target: str) -> None:
        """Bring one current file under the name of another."""
        self.brings({**self.current, target: self.current[source]})


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        name: Name in the specification, then the variant.
        kinds: Reasons that are right for refusing it.
        act: Does it; what the device accepts meanwhile it was right to accept.
        keeps_root: Whether a root that is signed as it must be comes with it; the device keeps that one.
    """

    name: str
    kinds: tuple[str, ...]
    act: Callable[[Scene], None]
    keeps_root: bool = False


Act = Callable[[Scene], None]
ATTACKS: list[Attack] = []


def attack(name: str, *kinds: str, keeps_root: bool = False) -> Callable[[Act], Act]:
    """Register an attack under its name with the right reasons to refuse it."""

    def register(act: Act) -> Act:
        ATTACKS.append(Attack(name, kinds, act, keeps_root))
        return act

    return register


def staged(folder: Path) -> Scene:
    """Make a device that accepted release 1, then release 2."""
    repository = Repository(sample_bundle(1))
    device = TrustingDevice(folder).provision(repository.roots[1])
    old = repository.pour()
    device.push(old)
    device.ask()
    repository.release(sample_bundle(2))
    repository.bump()
    current = repository.pour()
    device.push(current)
    device.ask()
    return Scene(repository, device, old, current)


def outcome(one: Attack, folder: Path) -> tuple[str, bool]:
    """Run one attack; return what came of it (`"accepted"` or a reason) and whether the device is unchanged."""
    scene = staged(folder)
    one.act(scene)
    before = _state(scene, one)
    try:
        scene.device.ask()
        found = "accepted"
    except TrustError as error:
        found = error.kind
    return found, _state(scene, one) == before


def _state(scene: Scene, one: Attack) -> dict[str, str | bytes]:
    state = scene.device.state()
    return {path: content for path, content in state.items() if not (one.keeps_root and "root_history" in path)}


def resigned(scene: Scene) -> None:
    """Raise all versions and bring the repository as it is now."""
    scene.repository.bump()
    scene.brings(scene.repository.pour())
