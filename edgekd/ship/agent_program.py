"""The device's agent as one zip file that a bare Python runs: `edgekd_agent` with `tuf` and `securesystemslib` inside.

The same sources give the same bytes, so its digest names it. Nothing is compressed, for compressors differ between
machines.
"""

from __future__ import annotations

import ast
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable

from edgekd.core.errors import ConfigError

MAX_PROGRAM_BYTES = 1_500_000
_MAIN = "import sys\nfrom edgekd_agent.__main__ import main\nsys.exit(main())\n"
_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_VENDORED = ("tuf", "securesystemslib")
_NOT_NEEDED = ("tuf/repository", "tuf/ngclient/urllib3_fetcher.py", "securesystemslib/_gpg/")


@dataclass(frozen=True)
class AgentProgram:
    """The zip file.

    Attributes:
        content: Its bytes.
        sha256: Their digest.
        versions: What is inside, by package.
    """

    content: bytes
    sha256: str
    versions: dict[str, str]


def agent_program() -> AgentProgram:
    """Pack the agent.

    Returns:
        The program.

    Raises:
        ConfigError: `tuf` or `securesystemslib` is not installed here, or the program became too big.
    """
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    versions = {"edgekd_agent": _agent_version()}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        for name, source in _python_files(files("edgekd_agent"), "edgekd_agent"):
            _add(archive, name, _without_docstrings(source))
        for package in _VENDORED:
            versions[package] = _add_vendored(archive, package)
    content = buffer.getvalue()
    if len(content) > MAX_PROGRAM_BYTES:
        raise ConfigError(f"the agent is {len(content)} bytes, at most {MAX_PROGRAM_BYTES} are wanted")
    return AgentProgram(content, hashlib.sha256(content).hexdigest(), versions)
