"""A bundle written to, and read from, one file for carrying by hand."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import edgekd_agent
from edgekd_agent import MANIFEST_NAME, ManifestError
from edgekd_agent.archive import header, padding, trailer, unpack

from edgekd.core import atomic
from edgekd.core.artifacts import FileRef
from edgekd.core.errors import BundleError, ConfigError, StorageError
from edgekd.ship.bundle import verify

ARCHIVE_SUFFIX = ".tar"


def write_archive(folder: Path, target: Path) -> FileRef:
    """Write a bundle as one tar; the same bundle gives the same bytes.

    Args:
        folder: The bundle; it must be whole.
        target: The tar to write.

    Returns:
        The tar.

    Raises:
        BundleError: The bundle is not whole.
        ConfigError: A path is too long for a tar.
        StorageError: The file system refused.
    """
    verify(folder)
    manifest = edgekd_agent.read_manifest(folder / MANIFEST_NAME)
    sizes = {MANIFEST_NAME: (folder / MANIFEST_NAME).stat().st_size}
    sizes.update({artifact.path: artifact.size_bytes for artifact in manifest.artifacts})
    with atomic.replacing(target) as temporary, open(temporary, "wb") as stream:
        for path, size_bytes in sizes.items():
            try:
                stream.write(header(path, size_bytes))
            except ValueError as error:
                raise ConfigError(f"{path}: {error}") from error
            with open(folder / path, "rb") as source:
                shutil.copyfileobj(source, stream)
            stream.write(padding(size_bytes))
        stream.write(trailer(stream.tell()))
    return FileRef.of(target)


@contextmanager
def opened_bundle(bundle: Path) -> Iterator[Path]:
    """Yield the folder of a bundle that is a folder or a tar; that of a tar lasts as long as the block.

    Args:
        bundle: Folder or tar.

    Raises:
        ConfigError: There is no such folder or file.
        BundleError: The tar is not one bundle in its one form.
        StorageError: It cannot be read, or there is no room to unpack it.
    """
    if bundle.is_dir():
        yield bundle
        return
    if not bundle.is_file():
        raise ConfigError(f"{bundle}: no such bundle, neither a folder nor a tar")
    with tempfile.TemporaryDirectory(prefix="edgekd-bundle-") as folder:
        try:
            unpack(bundle, Path(folder))
        except ManifestError as error:
            raise BundleError(f"{bundle}: not to be trusted: {error}") from error
        except OSError as error:
            raise StorageError(f"cannot unpack {bundle}: {error.strerror}") from error
        yield Path(folder)
