"""The host's side of trust: a TUF repository of released bundles, its keys, and what to bring to a device.

Importing this imports `tuf` and `cryptography`; commands do it when they run.
"""

from edgekd.ship.trust.ceremony import Rotated, import_root, sign_root
from edgekd.ship.trust.creating import Initialised, check_init, init
from edgekd.ship.trust.keys import PASSPHRASE_VARIABLE, Passphrase, passphrase_from_environment
from edgekd.ship.trust.outbox import Outbox, export, outbox
from edgekd.ship.trust.planning import (
    KeyChange,
    check_group,
    check_import,
    check_publish,
    check_refresh,
    check_withdraw,
    describe_root,
    plan_renewal,
    plan_revocation,
    plan_rotation,
)
from edgekd.ship.trust.publishing import Published, publish, want
from edgekd.ship.trust.roles import Lifetimes
from edgekd.ship.trust.rotation import add_group, renew_root, revoke, rotate
from edgekd.ship.trust.upkeep import Refreshed, RepositoryFacts, RoleFacts, refresh, show, withdraw

__all__ = [
    "Initialised",
    "KeyChange",
    "Lifetimes",
    "Outbox",
    "PASSPHRASE_VARIABLE",
    "Passphrase",
    "Published",
    "Refreshed",
    "RepositoryFacts",
    "RoleFacts",
    "Rotated",
    "add_group",
    "check_group",
    "check_import",
    "check_init",
    "check_publish",
    "check_refresh",
    "check_withdraw",
    "describe_root",
    "export",
    "import_root",
    "init",
    "outbox",
    "passphrase_from_environment",
    "plan_renewal",
    "plan_revocation",
    "plan_rotation",
    "publish",
    "refresh",
    "renew_root",
    "revoke",
    "rotate",
    "show",
    "sign_root",
    "want",
    "withdraw",
]
