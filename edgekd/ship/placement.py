"""A whole folder appears at once: built beside its place, then exchanged with what was there in one system call."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.core.atomic import fsync_folder
from edgekd.core.errors import StorageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NEW, _OLD = ".bundle-new", ".bundle-old"


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well it takes the place of `target`, else it is removed.

    One process at a time works beside `target`; others wait. What a killed process left behind is cleared first. Where
    the file system cannot exchange two names, `target` is absent for a moment instead, and a process killed in that
    moment is repaired by the next one.

    Args:
        target: The final folder; missing parents are made.

    Raises:
        StorageError: The file system refused (full, read-only, no permission).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one_in(target.parent):
            _repair(target)
            staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_NEW, dir=target.parent))
            try:
                staging.chmod(0o755)
                yield staging
                fsync_folder(staging)
                _put(staging, target)
                fsync_folder(target.parent)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


@contextmanager
def _only_one_in(parent: Path) -> Iterator[None]:
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _repair(target: Path) -> None:
    for left in sorted(target.parent.glob(f".{target.name}.*{_OLD}")):
        if not target.exists():
            left.rename(target)
    for suffix in (_NEW, _OLD):
        for left in target.parent.glob(f".{target.name}.*{suffix}"):
            shutil.rmtree(left)


def _put(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
    elif not _exchange(staging, target):
        retired = staging.with_suffix(_OLD)
        target.rename(retired)
        staging.rename(target)
        shutil.rmtree(retired)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names atomically; False when the kernel or file system does not offer it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))
