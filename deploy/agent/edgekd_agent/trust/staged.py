"""The folder of metadata that the host pushed, as `tuf` wants to see it: a place to fetch bounded files from."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd_agent import staging, strict
from edgekd_agent.trust.errors import TrustError
from edgekd_agent.trust.tuf_client import FetcherInterface, exceptions

BASE_URL = "staging:///"
_NOT_FOUND = 404
_SIGNATURE_CHARS = 128
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class StagedFiles(FetcherInterface):
    """Fetches from a folder: plain files only, never through a link, never more bytes than were asked for.

    Args:
        folder: The staging folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file of at most `max_length` bytes without a temporary copy on disk."""
        name = url.removeprefix(BASE_URL)
        content = self.read(name, max_length)
        if name == "timestamp.json" or name.endswith(".root.json"):
            _require_one_spelling(name, content)
        return content

    def read(self, name: str, max_length: int) -> bytes:
        """Return a file by its name in the folder.

        Raises:
            DownloadHTTPError: There is no such file (as status 404).
            DownloadLengthMismatchError: It is longer than `max_length`.
            DownloadError: It is not a regular file, or cannot be read.
        """
        if "/" in name or name.startswith("."):
            raise exceptions.DownloadHTTPError(f"{name!r} is not the name of a staged file", _NOT_FOUND)
        try:
            with staging.opened(self._folder / name) as stream:
                content = stream.read(max_length + 1)
        except OSError as error:
            if error.errno in _ABSENT:
                raise exceptions.DownloadHTTPError(f"{name} is not there", _NOT_FOUND) from error
            raise exceptions.DownloadError(f"{name} cannot be read: {error.strerror}") from error
        if len(content) > max_length:
            raise exceptions.DownloadLengthMismatchError(f"{name} is longer than the {max_length} bytes allowed")
        return content

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise exceptions.DownloadError(f"{url}: staged files are read whole")


def _require_one_spelling(name: str, content: bytes) -> None:
    """Refuse other spellings of signed content: no digest elsewhere covers the bytes of these files."""
    try:
        document = strict.parse(content)
    except strict.NotStrictJson as error:
        raise TrustError("schema", f"{name}: {error}") from error
    if not isinstance(document, dict) or set(document) != {"signatures", "signed"}:
        raise TrustError("schema", f"{name}: not an object of 'signatures' and 'signed'")
    signatures = document["signatures"]
    if not isinstance(signatures, list) or not all(map(_is_plain_signature, signatures)):
        raise TrustError("schema", f"{name}: a signature is not one 'keyid' and one lower-case hexadecimal 'sig'")


def _is_plain_signature(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"}:
        return False
    text = entry["sig"]
    return isinstance(text, str) and len(text) == _SIGNATURE_CHARS and not set(text) - set("0123456789abcdef")
