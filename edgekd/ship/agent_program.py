"""The device's agent as one zip file that a bare Python runs: `edgekd_agent` with `tuf` and `securesystemslib` inside.

The same sources give the same bytes, so its digest names it. Nothing is compressed: compressors differ between
machines, the digest must not.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable

import edgekd_agent

from edgekd.core.errors import ConfigError

MAX_PROGRAM_BYTES = 1_500_000
_MAIN = "import sys\nfrom edgekd_agent.__main__ import main\nsys.exit(main())\n"
_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_VENDORED = ("tuf", "securesystemslib")


@dataclass(frozen=True)
class AgentProgram:
    """The zip file.

    Attributes:
        content: Its bytes.
        sha256: Their digest.
        versions: Version of each package inside.
    """

    content: bytes
    sha256: str
    versions: Mapping[str, str]


def agent_program() -> AgentProgram:
    """Pack the agent with what it needs beyond the standard library, and the licences of that.

    Returns:
        The program.

    Raises:
        ConfigError: `tuf` or `securesystemslib` is not installed here, or the program became too big.
    """
    members = {"__main__.py": _MAIN.encode(), **_sources("edgekd_agent")}
    versions = {"edgekd_agent": edgekd_agent.__version__}
    for package in _VENDORED:
        try:
            distribution = metadata.distribution(package)
        except metadata.PackageNotFoundError as error:
            raise ConfigError(f"{package} is not installed here; pip install 'edgekd[ship]'") from error
        versions[package] = distribution.version
        members.update(_sources(package))
        members.update(_licences(package, distribution))
    content = _zipped(members)
    if len(content) > MAX_PROGRAM_BYTES:
        raise ConfigError(f"the agent is {len(content)} bytes, at most {MAX_PROGRAM_BYTES} are wanted")
    return AgentProgram(content, hashlib.sha256(content).hexdigest(), versions)


def _sources(package: str) -> dict[str, bytes]:
    """Return a package's files; folders without `__init__.py` get one, for a zip file has no namespace packages."""
    found = {name: source.read_bytes() for name, source in _walk(files(package), package) if _is_wanted(name)}
    folders = {name.rpartition("/")[0] for name in found if name.endswith(".py")}
    return {**{f"{folder}/__init__.py": b"" for folder in folders}, **found}


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, name)
        else:
            yield name, entry


def _is_wanted(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith("LICENSE") or (last.endswith(".py") and not last.startswith("test_"))


def _licences(package: str, distribution: metadata.Distribution) -> dict[str, bytes]:
    found = {}
    for path in distribution.files or ():
        if ".dist-info" in str(path) and path.name.startswith("LICENSE"):
            found[f"licenses/{package}/{path.name}"] = distribution.locate_file(path).read_bytes()  # type: ignore[attr-defined]
    if not found:
        raise ConfigError(f"{package} {distribution.version} is installed without its licence; install it again")
    return found


def _zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(members.items()):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, content)
    return buffer.getvalue()
