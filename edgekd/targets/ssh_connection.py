"""Connections to boards over SSH whose host keys are pinned: a key is known, accepted by its fingerprint, or refused.

Trusted keys come from the file that was named, else from the user's `known_hosts` and the one that `edgekd targets
trust` writes. Nothing is ever trusted on first sight.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.atomic import write_text
from edgekd.core.errors import ConfigError, TargetError, missing_package
from edgekd.core.user_folder import user_folder

TIMEOUT_S = 20
_SSH_PORT = 22
_KEEPALIVE_S = 10
_FAST_CIPHERS = (
    "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"  # hardware does them on both sides; others stay allowed
)
_ADDRESS = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d+))?")


class Unreachable(TargetError):
    """The board does not answer now; a later try may reach it."""


@dataclass(frozen=True)
class Address:
    """Where a board answers.

    Attributes:
        host: Name, address, or a host of the user's SSH configuration.
        user: Login; by default that of the SSH configuration.
        port: Port; by default that of the SSH configuration.
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class SshKeys:
    """What proves who is who.

    Attributes:
        known_hosts: File of trusted host keys instead of the user's and edgekd's own.
        identity: Private key instead of the user's.
    """

    known_hosts: Path | None = None
    identity: Path | None = None


def parse_address(text: str) -> Address:
    """Read `user@host`, `host` or `user@host:port`; raises `ConfigError` when it is none of them."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or match["host"].startswith("-"):
        raise ConfigError(f"--device {text!r}: write it as user@host or user@host:port")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise ConfigError(f"--device {text!r}: port {port} is not between 1 and 65535")
    return Address(match["host"].strip("[]"), match["user"], port)


def own_known_hosts() -> Path:
    """Return the file of host keys that `edgekd targets trust` accepts; it need not exist."""
    return user_folder() / "known_hosts"


@asynccontextmanager
async def connected(address: Address, keys: SshKeys) -> AsyncIterator[Any]:
    """Open a connection for the length of a block.

    Args:
        address: Where the board answers.
        keys: Trusted host keys and the login's key.

    Yields:
        The asyncssh connection.

    Raises:
        PreconditionError: asyncssh is not installed.
        Unreachable: There is no answer.
        TargetError: The host key is unknown or another than the trusted one, or the login is refused.
        ConfigError: A file of keys cannot be read.
    """
    connection = await connect(address, keys)
    try:
        yield connection
    finally:
        connection.close()


async def connect(address: Address, keys: SshKeys) -> Any:
    """Open a connection that the caller closes; see `connected`."""
    asyncssh = _asyncssh()
    trusted = _trusted(keys)
    options = {**_options(address, keys), "known_hosts": trusted}
    try:
        return await asyncssh.connect(address.host, **options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise await _untrusted(address, trusted, keys, str(error.reason)) from error
    except asyncssh.PermissionDenied as error:
        raise TargetError(f"{address.host} refuses the login ({error.reason}); check the user and your keys") from error
    except asyncssh.KeyImportError as error:
        raise ConfigError(f"the private key {keys.identity} cannot be read: {error}") from error
    except (OSError, asyncssh.Error, asyncio.TimeoutError) as error:
        raise Unreachable(f"{address.host} cannot be reached: {error or type(error).__name__}") from error


def trust(address: Address, fingerprint: str, *, known_hosts: Path | None = None) -> Path:
    """Accept the host key of a board whose fingerprint the user has compared.

    Args:
        address: Where it answers.
        fingerprint: `SHA256:...`, as `ssh-keygen -lf` prints it on the board.
        known_hosts: File to write it to instead of edgekd's own.

    Returns:
        The file that holds the key now.

    Raises:
        PreconditionError: asyncssh is not installed.
        TargetError: It cannot be reached, or offers another key than that.
    """
    key = asyncio.run(_offered_key(address))
    if key is None:
        raise Unreachable(f"{address.host} cannot be reached, or showed no host key")
    offered = key.get_fingerprint()
    if offered != fingerprint.strip():
        raise TargetError(
            f"{address.host} offers the host key {offered}, not {fingerprint.strip()}: nothing was accepted"
        )
    path = known_hosts or own_known_hosts()
    held = path.read_text(encoding="utf-8") if path.is_file() else ""
    line = f"{_pattern(address)} {key.export_public_key().decode().strip()}\n"
    if line not in held:
        write_text(path, held + ("" if held.endswith("\n") or not held else "\n") + line)
    return path


async def _untrusted(address: Address, trusted: Any, keys: SshKeys, reason: str) -> TargetError:
    offered = await _offered_key(address)
    shown = offered.get_fingerprint() if offered is not None else "a key it did not show again"
    known = _known_fingerprints(trusted, address)
    where = f" --known-hosts {keys.known_hosts}" if keys.known_hosts else ""
    if known:
        return TargetError(
            f"THE HOST KEY OF {address.host} HAS CHANGED: it offers {shown}, you trust {', '.join(known)}. Another "
            "machine may be answering in its place; nothing was sent. Only if you know why it changed (a board flashed "
            f"anew): remove its old line from your known-hosts file, then edgekd targets trust {address} {shown}{where}"
        )
    return TargetError(
        f"{address.host}: its host key is not one you trust ({reason}): {shown}. Compare it with the one that "
        "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the board itself, then accept it: "
        f"edgekd targets trust {address} {shown}{where}"
    )


async def _offered_key(address: Address) -> Any:
    asyncssh = _asyncssh()
    place = {"port": address.port} if address.port else {}
    try:
        return await asyncio.wait_for(asyncssh.get_server_host_key(address.host, **place), TIMEOUT_S)
    except (OSError, asyncssh.Error, asyncio.TimeoutError):
        return None


def _known_fingerprints(trusted: Any, address: Address) -> list[str]:
    host, port = _host_and_port(address)
    keys, authorities, *_ = trusted.match(host, "", port)
    return [key.get_fingerprint() for key in [*keys, *authorities]]


def _pattern(address: Address) -> str:
    host, port = _host_and_port(address)
    return host if port == _SSH_PORT else f"[{host}]:{port}"


def _host_and_port(address: Address) -> tuple[str, int]:
    """Return what a host key is kept under: the user's SSH configuration may give a name another host and port."""
    place = {"port": address.port} if address.port else {}
    configuration = Path.home() / ".ssh" / "config"
    files = [str(configuration)] if configuration.is_file() else []
    options = _asyncssh().SSHClientConnectionOptions(host=address.host, config=files, **place)
    return str(options.host_key_alias or options.host), int(options.port)


def _trusted(keys: SshKeys) -> Any:
    asyncssh = _asyncssh()
    files: Sequence[Path] = [keys.known_hosts] if keys.known_hosts else [_users_known_hosts(), own_known_hosts()]
    present = [str(path) for path in files if path.is_file()]
    if keys.known_hosts and not present:
        raise ConfigError(f"--known-hosts {keys.known_hosts}: there is no such file")
    try:
        return asyncssh.read_known_hosts(present) if present else asyncssh.import_known_hosts("")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the trusted host keys in {', '.join(present)} cannot be read: {error}") from error


def _users_known_hosts() -> Path:
    return Path.home() / ".ssh" / "known_hosts"


def _options(address: Address, keys: SshKeys) -> dict[str, Any]:
    options: dict[str, Any] = {"connect_timeout": TIMEOUT_S, "login_timeout": TIMEOUT_S}
    options |= {"keepalive_interval": _KEEPALIVE_S, "keepalive_count_max": 3, "encoding": None}
    options |= {"encryption_algs": _FAST_CIPHERS}
    options |= {"port": address.port} if address.port else {}
    options |= {"username": address.user} if address.user else {}
    return options | ({"client_keys": [str(keys.identity)]} if keys.identity else {})


def _asyncssh() -> Any:
    try:
        import asyncssh
    except ImportError as error:
        raise missing_package("asyncssh", "ssh", "asking a board over SSH") from error
    return asyncssh
