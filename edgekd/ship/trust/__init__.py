"""The host's side of trust: a TUF repository of released bundles, its keys, and what to bring to a device.

Importing this imports `tuf` and `cryptography`; commands do it when they run.
"""

from edgekd.ship.trust.creating import Initialised, check_init, init
from edgekd.ship.trust.keys import PASSPHRASE_VARIABLE, Passphrase, passphrase_from_environment
from edgekd.ship.trust.outbox import Outbox, outbox
from edgekd.ship.trust.publishing import Published, publish, want
from edgekd.ship.trust.roles import Lifetimes

__all__ = [
    "Initialised",
    "Lifetimes",
    "Outbox",
    "PASSPHRASE_VARIABLE",
    "Passphrase",
    "Published",
    "check_init",
    "init",
    "outbox",
    "passphrase_from_environment",
    "publish",
    "want",
]
