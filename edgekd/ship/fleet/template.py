"""The text of a first `fleet.yaml`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from edgekd.core.errors import ConfigError

_TEXT = """\
# The devices of a fleet, and how releases roll out over them. Its schema: edgekd schema fleet
schema_version: 1
name: {name}
repository: fleet-repo        # signed releases, made by `edgekd ship keys init`
ssh:
  known_hosts: null           # trusted host keys; null for yours and those of `edgekd targets trust`
  identity: null              # private key; null for yours
rollout:
  waves: [canary, 10%, 100%]  # devices marked `canary: true` first, then growing shares of the group
  concurrency: 8              # devices at once
  health_wait_s: 60           # after each wave, before its devices are asked whether they still run the release
  halt:
    max_failures: 2           # one more stops the roll-out
    max_failed_share: 0.1     # of one wave; more stops it
  timeouts:
    reach_tries: 3            # calls before a device counts as offline: it is queued, that is no failure
    silent_s: 300             # without any answer, before a device that did answer is given up
    device_s: 7200            # for one device from first to last
    poll_s: 2                 # between two looks at an install
groups:                       # each is also a signing role; `rollout` may be given anew for a group
{groups}
devices:
{devices}
"""


def fleet_text(name: str, groups: Sequence[str], target: str, devices: Sequence[str]) -> str:
    """Return the text.

    Args:
        name: Name of the fleet.
        groups: Names of groups; devices go to the first.
        target: Device model of the groups; may be empty.
        devices: `name=user@host` each.

    Raises:
        ConfigError: A device is not written so.
    """
    settings = {"target": target} if target else {}
    listed = "\n".join(f"  {json.dumps(group)}: {json.dumps(settings)}" for group in groups)
    entries = [_entry(text, groups[0], is_canary=number == 0) for number, text in enumerate(devices)]
    example = f"  []  # {{id: orin-1, address: edgekd-push@192.168.1.20, group: {groups[0]}, canary: true}}"
    return _TEXT.format(name=json.dumps(name), groups=listed, devices="\n".join(entries) or example)


def parsed(text: str) -> dict[str, Any]:
    """Return the document of a text."""
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def _entry(text: str, group: str, *, is_canary: bool) -> str:
    name, separator, address = text.partition("=")
    if not separator:
        raise ConfigError(f"--device {text!r}: write it as name=user@host")
    entry = {"id": name, "address": address, "group": group, **({"canary": True} if is_canary else {})}
    return f"  - {json.dumps(entry)}"
