"""`fleet.yaml`: the devices, their groups, and how releases roll out over them. Every problem is reported at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from edgekd_agent.trust.names import is_group_name
from pydantic import AfterValidator, Field

from edgekd.core.config import StrictModel, config_error, problems_of, read_yaml
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.ship.transport.ssh import AgentPlace
from edgekd.targets.ssh_connection import SshKeys, parse_address

FLEET_FILE = "fleet.yaml"
CANARY = "canary"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PERCENT = re.compile(r"(\d{1,3})%")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("is not letters, digits and ._- (at most 64)")
    return text


def _address(text: str) -> str:
    try:
        parse_address(text)
    except ConfigError as error:
        raise ValueError("is not user@host or user@host:port") from error
    return text


def _waves(waves: tuple[str, ...]) -> tuple[str, ...]:
    sizes = waves[1:] if waves[:1] == (CANARY,) else waves
    shares = [int(match[1]) if (match := _PERCENT.fullmatch(wave)) else -1 for wave in sizes]
    if not shares or -1 in shares:
        raise ValueError("waves are 'canary' (first, if at all) and percentages such as '10%'")
    if sorted(set(shares)) != shares or shares[0] < 1 or shares[-1] != 100:
        raise ValueError("percentages of waves must grow and end with 100%")
    return waves


class Halt(StrictModel):
    """When a roll-out stops before its end.

    Attributes:
        max_failures: Failures in all that are borne; one more stops it.
        max_failed_share: Share of a wave that may fail; more stops it.
    """

    max_failures: Annotated[int, Field(ge=0)] = 2
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.1


class Timeouts(StrictModel):
    """How long devices are waited for.

    Attributes:
        reach_tries: Times a device that does not answer is called before it counts as offline.
        silent_s: Seconds without any answer after which a device that did answer is given up.
        device_s: Seconds for one device from first to last.
        poll_s: Seconds between two looks at a device that installs.
    """

    reach_tries: Annotated[int, Field(ge=1, le=100)] = 3
    silent_s: Annotated[float, Field(gt=0)] = 300.0
    device_s: Annotated[float, Field(gt=0)] = 7200.0
    poll_s: Annotated[float, Field(gt=0)] = 2.0


class Rollout(StrictModel):
    """How a release rolls out over a group.

    Attributes:
        waves: `canary`, then growing shares of the group such as `10%`; the last is `100%`.
        concurrency: Devices that are worked on at once.
        timeouts: How long devices are waited for.
        halt: When it stops.
        health_wait_s: Seconds after each wave before its devices are asked again whether they still run the release.
    """

    waves: Annotated[tuple[str, ...], AfterValidator(_waves)] = (CANARY, "10%", "100%")
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    timeouts: Timeouts = Timeouts()
    halt: Halt = Halt()
    health_wait_s: Annotated[float, Field(ge=0)] = 60.0


class Group(StrictModel):
    """Devices that get the same releases.

    Attributes:
        target: Device model of its members, as `edgekd targets list` names it.
        rollout: How releases roll out over it; what is left out is as for the whole fleet.
    """

    target: str | None = None
    rollout: Rollout = Rollout()


class Device(StrictModel):
    """One device.

    Attributes:
        id: Its name; it is written on the device at provisioning.
        address: `user@host` or `user@host:port`.
        group: Its group.
        target: Its device model, where it is not that of the group.
        is_canary: Whether it gets releases first.
        labels: Words of yours, to choose devices by.
    """

    id: Annotated[str, AfterValidator(_name)]
    address: Annotated[str, AfterValidator(_address)]
    group: str
    target: str | None = None
    is_canary: Annotated[bool, Field(alias="canary")] = False
    labels: Mapping[str, str] = {}


class Ssh(StrictModel):
    """What proves who is who.

    Attributes:
        known_hosts: File of trusted host keys instead of the user's and edgekd's own; relative to `fleet.yaml`.
        identity: Private key instead of the user's; relative to `fleet.yaml`.
    """

    known_hosts: str | None = None
    identity: str | None = None


class Agent(StrictModel):
    """Where the login finds the agent on every device; as `provision` lays it out, where nothing is said.

    Attributes:
        socket: Socket of the agent, as the login sees it.
        root: Folder that holds `staging`, as the login sees it; with `command`, the agent's data folder. One that is
            not absolute lies in the home of the login.
        command: Words that start the agent, for a trial without provisioning: the login is then the agent's own user,
            and whoever holds its key can change all that the agent trusts.
    """

    socket: Annotated[str, Field(pattern="^[A-Za-z0-9._/][^\n]*$")] = AgentPlace().socket
    root: Annotated[str, Field(pattern="^[A-Za-z0-9._/][^\n]*$")] = AgentPlace().root
    command: tuple[str, ...] = AgentPlace().command


class Fleet(StrictModel):
    """The content of `fleet.yaml`.

    Attributes:
        schema_version: Always 1.
        name: Name of the fleet.
        repository: Folder of the signed releases; relative to `fleet.yaml`.
        ssh: Keys.
        agent: Where the agent is on every device.
        rollout: How releases roll out, where a group does not say.
        groups: Groups by name.
        devices: Devices.
    """

    schema_version: Literal[1]
    name: Annotated[str, AfterValidator(_name)]
    repository: str = "fleet-repo"
    ssh: Ssh = Ssh()
    agent: Agent = Agent()
    rollout: Rollout = Rollout()
    groups: Annotated[Mapping[str, Group], Field(min_length=1)]
    devices: tuple[Device, ...] = ()

    def in_group(self, group: str) -> tuple[Device, ...]:
        """Return the devices of a group, in the order of the file."""
        return tuple(device for device in self.devices if device.group == group)

    def device(self, device_id: str) -> Device:
        """Return a device by its name; raises `ConfigError`."""
        for device in self.devices:
            if device.id == device_id:
                return device
        raise unknown_name("device", device_id, [device.id for device in self.devices])

    def rollout_of(self, group: str) -> Rollout:
        """Return how releases roll out over a group; raises `ConfigError` for an unknown one."""
        if group not in self.groups:
            raise unknown_name("group", group, self.groups)
        return self.groups[group].rollout


def read_fleet(path: Path) -> Fleet:
    """Read `fleet.yaml`.

    Args:
        path: The file, or its folder.

    Returns:
        The fleet.

    Raises:
        ConfigError: Lists every problem with its key.
    """
    path = path / FLEET_FILE if path.is_dir() else path
    return fleet_from(read_yaml(path), str(path))


def fleet_from(document: Mapping[str, Any], origin: str) -> Fleet:
    """Check the content of `fleet.yaml`; raises `ConfigError` that lists every problem, named after `origin`."""
    document = _with_defaults(document)
    problems = [*problems_of(Fleet, document), *_mismatches(document)]
    if problems:
        raise config_error(origin, problems)
    return Fleet.model_validate(document)


def keys_of(fleet: Fleet, folder: Path) -> SshKeys:
    """Return the keys that a fleet names, its paths taken from the folder of `fleet.yaml`."""
    known, identity = fleet.ssh.known_hosts, fleet.ssh.identity
    return SshKeys(_path(known, folder) if known else None, _path(identity, folder) if identity else None)


def repository_of(fleet: Fleet, folder: Path) -> Path:
    """Return the folder of the signed releases."""
    return _path(fleet.repository, folder)


def place_of(fleet: Fleet) -> AgentPlace:
    """Return where the agent is on the devices."""
    return AgentPlace(fleet.agent.socket, fleet.agent.root, fleet.agent.command)


def target_of(fleet: Fleet, device: Device) -> str | None:
    """Return the device model of a device: its own, or its group's."""
    return device.target or fleet.groups[device.group].target


def chosen(fleet: Fleet, ids: Sequence[str], group: str | None, labels: Sequence[str]) -> tuple[Device, ...]:
    """Choose devices; everything that is named narrows the choice.

    Args:
        fleet: The fleet.
        ids: Names of devices; all when there are none.
        group: Name of a group, or None for all.
        labels: `key=value` each.

    Returns:
        Devices in the order of the file.

    Raises:
        ConfigError: Something is unknown, or nothing is left.
    """
    if group is not None:
        fleet.rollout_of(group)
    wanted = [_label(label) for label in labels]
    named = {fleet.device(device_id).id for device_id in ids}
    left = tuple(
        device
        for device in fleet.devices
        if (not named or device.id in named)
        and group in (None, device.group)
        and all(device.labels.get(key) == value for key, value in wanted)
    )
    if not left:
        raise ConfigError("no device of the fleet is meant by that choice")
    return left


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--label {text!r}: write it as key=value")
    return key, value


def _path(text: str, folder: Path) -> Path:
    return folder / Path(text).expanduser()


def _with_defaults(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fill what a group's roll-out leaves out with the fleet's, two levels deep."""
    whole, groups = document.get("rollout"), document.get("groups")
    if not isinstance(whole, dict) or not isinstance(groups, dict):
        return document
    filled = {}
    for name, group in groups.items():
        own = group.get("rollout", {}) if isinstance(group, dict) else None
        filled[name] = {**group, "rollout": _merged(whole, own)} if isinstance(own, dict) else group
    return {**document, "groups": filled}


def _merged(whole: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**whole, **own}
    for key in ("timeouts", "halt"):
        if isinstance(whole.get(key), dict) and isinstance(own.get(key), dict):
            merged[key] = {**whole[key], **own[key]}
    return merged


def _mismatches(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong between entries; entries that are malformed themselves are passed over."""
    groups = document.get("groups")
    named = groups if isinstance(groups, dict) else {}
    entries = document.get("devices")
    devices = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    bad_groups = [name for name in named if not is_group_name(str(name))]
    problems = [f"groups.{name}: is not a-z, 0-9 and -, or is taken by a signing role" for name in bad_groups]
    for key in ("id", "address"):
        counts = Counter(str(device[key]) for device in devices if key in device)
        problems += [
            f"devices: the {key} {value!r} is given {count} times" for value, count in counts.items() if count > 1
        ]
    for number, device in enumerate(devices):
        group = device.get("group")
        if isinstance(group, str) and group not in named:
            problems.append(f"devices.{number}.group: {unknown_name('group', group, map(str, named))}")
    return problems
