"""What this device is meant to run, and why it may believe that: TUF over files that somebody else brought.

The host pushes metadata into a folder; nothing that brought it is trusted. `desired_release` verifies it from the root
of trust that the device was provisioned with and answers with the one release that was signed for this device's group.
`tuf` is imported when that is asked for, never before: the other commands of the agent start without it.
"""

from edgekd_agent.trust.desired import DESIRED_NAME, DesiredState, desired_bytes, desired_target, parse_desired
from edgekd_agent.trust.device import Device, parse_device, read_device
from edgekd_agent.trust.errors import TrustError, TrustProblem
from edgekd_agent.trust.names import BUNDLE_NAME, SIGNED_AT, blob_target, bundle_target, is_group_name
from edgekd_agent.trust.release import Release, desired_release, trusted_root_version

__all__ = [
    "BUNDLE_NAME",
    "DESIRED_NAME",
    "DesiredState",
    "Device",
    "Release",
    "SIGNED_AT",
    "TrustError",
    "TrustProblem",
    "blob_target",
    "bundle_target",
    "desired_bytes",
    "desired_release",
    "desired_target",
    "is_group_name",
    "parse_desired",
    "parse_device",
    "read_device",
    "trusted_root_version",
]
