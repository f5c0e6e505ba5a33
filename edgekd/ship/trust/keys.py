"""Private keys: Ed25519, one PEM file each, readable by their owner only, in a folder apart from the repository.

The folder also keeps a copy of the first root. Whoever could replace the whole repository by another could otherwise
have edgekd sign it with the real keys.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Key

from edgekd.core.atomic import fsync_folder
from edgekd.core.errors import ConfigError, EdgeKDError, PreconditionError, SignatureError, StorageError

PASSPHRASE_VARIABLE = "EDGEKD_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable, not a secret
Passphrase = Callable[[], str | None]
"""Called when a passphrase is needed; None means that there is none."""

ANCHOR = "root.json"
_ID_CHARS = 16
_MAX_PEM_BYTES = 1 << 16


def passphrase_from_environment() -> str | None:
    """Return the passphrase that the environment gives; None without one."""
    return os.environ.get(PASSPHRASE_VARIABLE) or None


def make_key(folder: Path, label: str, passphrase: str | None) -> CryptoSigner:
    """Make a key and keep its private half.

    Args:
        folder: Folder of private keys; made when it is missing.
        label: What it is for; starts the file's name.
        passphrase: Encrypts the file; None leaves it readable to its owner.

    Returns:
        A signer with the new key.

    Raises:
        StorageError: The file cannot be written.
    """
    signer = CryptoSigner.generate_ed25519()
    secret = passphrase.encode("utf-8") if passphrase else None
    encryption: KeySerializationEncryption = BestAvailableEncryption(secret) if secret else NoEncryption()
    private = signer._private_key
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path = folder / f"{label}.{signer.public_key.keyid[:_ID_CHARS]}.pem"
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
            fsync_folder(folder.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fsync_folder(folder)
    except OSError as error:
        raise StorageError(f"cannot write the private key {path}: {error.strerror}") from error
    return signer


def key_file(folder: Path, key: Key) -> Path | None:
    """Return the file of a private key in a folder; None when it is kept elsewhere."""
    return next(iter(sorted(folder.glob(f"*.{key.keyid[:_ID_CHARS]}.pem"))), None)


@contextmanager
def new_keys(folder: Path) -> Iterator[list[Key]]:
    """Yield a list for keys made in the block; when the block fails their files are removed again."""
    made: list[Key] = []
    try:
        yield made
    except EdgeKDError:
        for key in made:
            if (path := key_file(folder, key)) is not None:
                path.unlink(missing_ok=True)
        raise


def load_signer(folder: Path, key: Key, passphrase: Passphrase) -> CryptoSigner | None:
    """Load a private key.

    Args:
        folder: Folder of private keys.
        key: Its public half.
        passphrase: Asked when the file is encrypted.

    Returns:
        The signer; None when the folder does not have this key.

    Raises:
        ConfigError: Others may read the file.
        PreconditionError: It is encrypted and there is no passphrase, or a wrong one.
        SignatureError: It is not the private half of `key`.
        StorageError: It cannot be read.
    """
    path = key_file(folder, key)
    if path is None:
        return None
    private = load_private(path, passphrase)
    signer = CryptoSigner(private)
    if signer.public_key.keyval != key.keyval:
        raise SignatureError(f"{path} is not the private half of key {key.keyid[:_ID_CHARS]}")
    signer.public_key.keyid = key.keyid
    return signer


def load_private(path: Path, passphrase: Passphrase) -> Ed25519PrivateKey:
    """Read a private key file; raises as `load_signer` does."""
    content = _private_content(path)
    is_encrypted = b"ENCRYPTED" in content.partition(b"\n")[0]
    secret = passphrase() if is_encrypted else None
    if is_encrypted and not secret:
        raise PreconditionError(f"{path} is encrypted: set {PASSPHRASE_VARIABLE}, or run this on a terminal")
    try:
        private = load_pem_private_key(content, secret.encode("utf-8") if secret else None)
    except ValueError as error:
        message = "the passphrase does not open" if is_encrypted else "not a PEM private key:"
        raise PreconditionError(f"{message} {path}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SignatureError(f"{path} is no Ed25519 key; devices verify no others")
    return private


def _private_content(path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            content = stream.read(_MAX_PEM_BYTES)
    except OSError as error:
        raise StorageError(f"cannot read the private key {path}: {error.strerror}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"others may read the private key {path}: chmod 600 {path}")
    return content


def require_apart(repo: Path, keys: Path) -> None:
    """Raise `ConfigError` when private keys would lie in the repository, which is copied around, or around it."""
    inner, outer = keys.resolve(), repo.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ConfigError(f"keys {keys} and repository {repo} lie in each other; keep private keys apart")
