"""What is left on a device when it is provisioned: the agent, who the device is, whom it trusts, script and units."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from edgekd_agent.strict import canonical

from edgekd.core.errors import ConfigError, PreconditionError
from edgekd.ship.agent_program import agent_program
from edgekd.ship.fleet.inventory import Device, Fleet, target_of

SCRIPT = "provision.sh"
_IN_CHECKOUT = Path(__file__).parents[3] / "deploy"


def deploy_folder() -> Path:
    """Return the folder with the files for devices: that of the installed package, or of a checkout.

    Raises:
        PreconditionError: Neither is there.
    """
    packaged = Path(str(files("edgekd.ship"))) / "deploy"
    for folder in (packaged, _IN_CHECKOUT):
        if (folder / "device" / SCRIPT).is_file():
            return folder
    raise PreconditionError(f"{packaged} is missing: install edgekd again")


def device_files(fleet: Fleet, device: Device, root: Path, key: Path | None) -> Mapping[str, bytes]:
    """Return the files that `provision.sh` reads, by their path in the folder it is given.

    Args:
        fleet: The fleet.
        device: The device.
        root: The first root of the repository's trust.
        key: Public key of the operator; None to leave logins as they are.

    Raises:
        ConfigError: The device's model is not stated, or a file cannot be read.
        PreconditionError: The files for devices are not installed here.
    """
    program, folder = agent_program(), deploy_folder()
    found = {
        "edgekd-agent.pyz": program.content,
        "edgekd-agent.sha256": f"{program.sha256}  edgekd-agent.pyz\n".encode(),
        "device.json": device_document(fleet, device),
        "root.json": _content(root),
        SCRIPT: _content(folder / "device" / SCRIPT),
    }
    units = sorted((folder / "systemd").glob("*.*")) if (folder / "systemd").is_dir() else []
    found |= {f"systemd/{unit.name}": _content(unit) for unit in units}
    return found if key is None else {**found, "operator.pub": _content(key)}


def device_document(fleet: Fleet, device: Device) -> bytes:
    """Return the `device.json` of a device; raises `ConfigError` when its model is not stated."""
    target = target_of(fleet, device)
    if target is None:
        raise ConfigError(
            f"the device model of {device.id} is not stated: give it, or its group, a target (edgekd targets list)"
        )
    document = {
        "schema_version": 1,
        "device_id": device.id,
        "group": device.group,
        "selector": {"device": target},
    }
    return canonical(document) + b"\n"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
