"""What the device trusts, on disk: every file whole and durable, in an order that any crash may interrupt.

`tuf` writes its files without fsync and replaces the link to the newest root in two steps, so it works on a scratch
copy; what it verified is then moved into place here. Losing everything but `root.json` costs the device its memory of
versions, never its ability to verify.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekd_agent import durable

ROOT_NAME = "root.json"
HISTORY = "root_history"
METADATA = "metadata"
_SCRATCH = ".scratch"
_MAX_KEPT_BYTES = 8 << 20


def keep(path: Path, content: bytes) -> None:
    """Write a file so that after any power cut it is the old one or the new one; nothing is done when it is equal.

    Raises:
        OSError: The file system refused.
    """
    if read_if_there(path) != content:
        durable.make_folder(path.parent)
        durable.replace_file(path, content)


def read_if_there(path: Path) -> bytes | None:
    """Return the content of a kept file; None when there is none that could be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(_MAX_KEPT_BYTES)
    except OSError:
        return None


def root_file(trust: Path, version: int) -> Path:
    """Return where a root after the bootstrap one is kept."""
    return trust / HISTORY / f"{version}.root.json"


def role_file(trust: Path, role: str) -> Path:
    """Return where the trusted metadata of a role are kept."""
    return trust / METADATA / f"{role}.json"


@contextmanager
def scratch_copy(trust: Path) -> Iterator[Path]:
    """Yield a folder laid out as `tuf` wants it with copies of all that is trusted; it is removed afterwards."""
    scratch = trust / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / HISTORY).mkdir(parents=True)
        for source, target in ((trust / HISTORY, scratch / HISTORY), (trust / METADATA, scratch)):
            with suppress(FileNotFoundError):
                for path in source.glob("[!.]*.json"):
                    shutil.copyfile(path, target / path.name)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
