"""A repository on disk: read and verified as a device would, changed all at once, by one operator at a time.

A change is first written whole into a folder `next`, which appears by one rename; from then on it will happen, if need
be when the next operator opens the repository. Files of a version are never changed; `timestamp.json` alone is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgekd_agent import strict
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edgekd.core import atomic
from edgekd.core.errors import ConfigError, RunLocked, SignatureError, StorageError
from edgekd.ship.trust.keys import ANCHOR
from edgekd.ship.trust.roles import Lifetimes, Roles

FACTS_NAME = "repository.json"
_NEXT, _LOCK = "next", ".lock"
_LOCK_WAIT_S = 10.0
_MAX_BYTES = 8 << 20
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_S = TypeVar("_S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class _Facts:
    schema_version: int
    lifetimes: Lifetimes


@contextmanager
def locked(repo: Path) -> Iterator[None]:
    """Be the only operator of a repository; a change that was cut short is finished first.

    Raises:
        ConfigError: There is no repository.
        RunLocked: Another operator is at work, and still was after some seconds.
        StorageError: The file system refused.
    """
    _require_repository(repo)
    with only_operator(repo):
        try:
            _finish(repo)
        except OSError as error:
            raise StorageError(f"cannot finish the last change of {repo}: {error.strerror}") from error
        yield


@contextmanager
def reading(repo: Path) -> Iterator[None]:
    """Keep operators from changing a repository while it is read; any number may read. Raises as `locked` does."""
    _require_repository(repo)
    while True:
        with _held(repo, fcntl.LOCK_SH):
            if not (repo / _NEXT).exists():
                yield
                return
        with locked(repo):
            pass  # the change that was cut short is finished now


@contextmanager
def only_operator(repo: Path) -> Iterator[None]:
    """Hold the lock of a folder that may not be a repository yet."""
    with _held(repo, fcntl.LOCK_EX):
        yield


def _require_repository(repo: Path) -> None:
    if not (repo / FACTS_NAME).is_file():
        raise ConfigError(f"{repo} is no repository: edgekd ship keys init makes one")


@contextmanager
def _held(repo: Path, kind: int) -> Iterator[None]:
    try:
        descriptor = os.open(repo / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"cannot lock {repo}: {error.strerror}") from error
    try:
        _wait_for(descriptor, repo, kind)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, repo: Path, kind: int) -> None:
    end = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise RunLocked(f"another operator is changing {repo}; try again when that is done") from error
            time.sleep(0.05)


def read_lifetimes(repo: Path) -> Lifetimes:
    """Return how long signatures last in this repository; raises `StorageError`."""
    problems: list[str] = []
    try:
        facts = strict.build(_Facts, strict.load(_read(repo / FACTS_NAME)), FACTS_NAME, problems)
    except strict.NotStrictJson as error:
        raise StorageError(f"{repo / FACTS_NAME}: {error}") from error
    if facts is None or facts.schema_version != 1:
        raise StorageError(f"{repo / FACTS_NAME}: " + "; ".join(problems or ["unknown schema_version"]))
    return facts.lifetimes


def facts_bytes(lifetimes: Lifetimes) -> bytes:
    """Return the content of `repository.json`."""
    return strict.canonical({"schema_version": 1, "lifetimes": asdict(lifetimes)})


def load(repo: Path) -> Roles:
    """Read the current metadata and verify all signatures, digests and versions, but not expiry.

    Raises:
        SignatureError: Something was changed by another hand than the keys'.
        StorageError: A file is missing.
    """
    folder = repo / "metadata"
    root = _newest_root(folder)
    timestamp = _verified(_read(folder / "timestamp.json"), Timestamp, root.signed, "timestamp")
    meta = timestamp.signed.snapshot_meta
    content = _read(folder / f"{meta.version}.snapshot.json")
    snapshot = _verified(content, Snapshot, root.signed, "snapshot")
    _require_digest("snapshot", content, meta)
    targets = _listed(folder, "targets", snapshot.signed, root.signed)
    delegations = targets.signed.delegations
    names = sorted(delegations.roles or {}) if delegations else []
    groups = {name: _listed(folder, name, snapshot.signed, targets.signed) for name in names}
    return Roles(root, targets, groups, snapshot, timestamp)


def require_anchor(repo: Path, keys: Path) -> None:
    """Refuse to sign a repository that does not start from the root these keys were made for.

    Raises:
        ConfigError: The folder of keys does not say which root that is.
        SignatureError: It is another one.
    """
    anchor = keys / ANCHOR
    if not anchor.is_file():
        raise ConfigError(f"{anchor} is missing: copy the first root there, from a place that you trust")
    if _read(anchor) != _read(repo / "metadata" / "1.root.json"):
        raise SignatureError(f"{repo} starts from another root than {anchor}: it is not the repository of these keys")


def read_root(path: Path) -> Metadata[Root]:
    """Read a root that may not be signed enough yet; raises `SignatureError`, `StorageError`."""
    return _parsed(_read(path), Root, path.name)


def _newest_root(folder: Path) -> Metadata[Root]:
    root = _parsed(_read(folder / "1.root.json"), Root, "1.root.json")
    _require_signed(root, root.signed, "root")
    while (path := folder / f"{root.signed.version + 1}.root.json").exists():
        newer = _parsed(_read(path), Root, path.name)
        _require_signed(newer, root.signed, "root")
        _require_signed(newer, newer.signed, "root")
        if newer.signed.version != root.signed.version + 1:
            raise SignatureError(f"{path.name} says it is version {newer.signed.version}")
        root = newer
    return root


def _listed(folder: Path, role: str, snapshot: Snapshot, delegator: Root | Targets) -> Metadata[Targets]:
    meta = snapshot.meta.get(f"{role}.json")
    if meta is None:
        raise SignatureError(f"the snapshot does not list {role}")
    content = _read(folder / f"{meta.version}.{role}.json")
    metadata = _verified(content, Targets, delegator, role)
    _require_digest(role, content, meta)
    return metadata


def _verified(content: bytes, kind: type[_S], delegator: Root | Targets, role: str) -> Metadata[_S]:
    metadata = _parsed(content, kind, role)
    _require_signed(metadata, delegator, role)
    return metadata


def _parsed(content: bytes, kind: type[_S], name: str) -> Metadata[_S]:
    try:
        metadata: Metadata[_S] = Metadata.from_bytes(content)
    except (RepositoryError, *_UNREADABLE) as error:
        raise SignatureError(f"{name} is damaged: {error}") from error
    if not isinstance(metadata.signed, kind):
        raise SignatureError(f"{name} is metadata of another role: {metadata.signed.type}")
    return metadata


def _require_signed(metadata: Metadata[_S], delegator: Root | Targets, role: str) -> None:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, *_UNREADABLE) as error:
        raise SignatureError(f"{role} was changed by another hand than its keys': {error}") from error


def _require_digest(role: str, content: bytes, meta: object) -> None:
    try:
        meta.verify_length_and_hashes(content)  # type: ignore[attr-defined]
    except RepositoryError as error:
        raise SignatureError(f"{role} is not the one that was signed last: {error}") from error


def write(repo: Path, metadata: Mapping[str, Metadata[Any]], contents: Mapping[str, bytes]) -> None:
    """Change the repository, all at once.

    Args:
        repo: The repository; its lock is held.
        metadata: Signed metadata by file name.
        contents: Other files by path in the repository.

    Raises:
        StorageError: The file system refused.
    """
    files = {f"metadata/{name}": signed.to_bytes() for name, signed in metadata.items()}
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{_NEXT}.", dir=repo))
        try:
            for path, content in {**contents, **files}.items():
                atomic.write_bytes(staging / path, content)
            atomic.fsync_folder(staging)  # its folders; what is in them is durable already
            staging.rename(repo / _NEXT)
            atomic.fsync_folder(repo)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        _finish(repo)
    except OSError as error:
        raise StorageError(f"cannot write {repo}: {error.strerror}") from error


def _finish(repo: Path) -> None:
    """Move what was decided into place; doing it twice does no harm."""
    following = repo / _NEXT
    for path in sorted(following.rglob("*"), key=lambda path: path.name == "timestamp.json"):
        if path.is_file():
            target = repo / path.relative_to(following)
            if not target.parent.is_dir():
                target.parent.mkdir(parents=True)
                atomic.fsync_folder(repo)
            os.replace(path, target)
            atomic.fsync_folder(target.parent)
    shutil.rmtree(following, ignore_errors=True)
    for left in repo.glob(f".{_NEXT}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise StorageError(f"{path} is longer than {_MAX_BYTES} bytes")
    return content
