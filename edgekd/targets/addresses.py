"""Where the user's own boards answer, by the name they were added under."""

from __future__ import annotations

import json
from pathlib import Path

from edgekd.core.atomic import write_json
from edgekd.core.errors import ConfigError
from edgekd.core.user_folder import user_folder
from edgekd.targets.ssh_connection import Address, parse_address


def addresses_file() -> Path:
    """Return the file that holds them; it need not exist."""
    return user_folder() / "addresses.json"


def address_of(name: str) -> Address:
    """Return where a board answers.

    Args:
        name: The name it was added under.

    Raises:
        ConfigError: No address is kept for it, or the file cannot be read.
    """
    known = _read()
    if name not in known:
        raise ConfigError(
            f"no address is known for the board {name!r}; write {name}=user@host, or keep it with "
            f"`edgekd targets add {name} --device user@host`"
        )
    return parse_address(known[name])


def keep_address(name: str, address: Address) -> None:
    """Remember where a board answers; raises `StorageError` when that cannot be written."""
    write_json(addresses_file(), {"schema_version": 1, "boards": {**_read(), name: str(address)}})


def _read() -> dict[str, str]:
    path = addresses_file()
    if not path.is_file():
        return {}
    try:
        boards = json.loads(path.read_text(encoding="utf-8"))["boards"]
        return {str(name): str(address) for name, address in boards.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: not a file of boards' addresses ({error}); mend or delete it") from error
