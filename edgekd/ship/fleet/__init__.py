"""Many devices at once: an inventory, releases in waves, halt rules, what happened written down for good."""

from edgekd.ship.fleet.audit import AuditLog, Record, Verdict
from edgekd.ship.fleet.deploy import Books, Deployment, converge, deploy
from edgekd.ship.fleet.inventory import Device, Fleet, Rollout, read_fleet
from edgekd.ship.fleet.lock import FleetLocked, break_lock, fleet_lock, holder_of, operator_name
from edgekd.ship.fleet.one_device import Work
from edgekd.ship.fleet.records import DeviceRecord, Records
from edgekd.ship.fleet.result import DeviceResult, exit_code_of
from edgekd.ship.fleet.rollback import roll_back
from edgekd.ship.fleet.source import Parcel, Source
from edgekd.ship.fleet.status import DeviceStatus, statuses
from edgekd.ship.fleet.waves import Wave, planned_waves

__all__ = [
    "AuditLog",
    "Books",
    "Deployment",
    "Device",
    "DeviceRecord",
    "DeviceResult",
    "DeviceStatus",
    "Fleet",
    "FleetLocked",
    "Parcel",
    "Record",
    "Records",
    "Rollout",
    "Source",
    "Verdict",
    "Wave",
    "Work",
    "break_lock",
    "converge",
    "deploy",
    "exit_code_of",
    "fleet_lock",
    "holder_of",
    "operator_name",
    "planned_waves",
    "read_fleet",
    "roll_back",
    "statuses",
]
