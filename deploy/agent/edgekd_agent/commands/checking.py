"""The command `verify`: compare a bundle folder with its manifest."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd_agent.commands.answer import Answer
from edgekd_agent.errors import EXIT_DONE, EXIT_TRUST, AgentError
from edgekd_agent.integrity import Verification, verify


def check(options: Namespace) -> Answer:
    """Verify a bundle folder."""
    folder: Path = options.folder
    if not folder.is_dir():
        raise AgentError("usage", f"{folder} is not a folder")
    verification = verify(folder)
    code = EXIT_DONE if verification.is_intact else EXIT_TRUST
    return Answer(_document(folder, verification), _text(folder, verification), code)


def _document(folder: Path, verification: Verification) -> dict[str, Any]:
    manifest = verification.manifest
    return {
        "schema_version": 1,
        "folder": str(folder),
        "is_intact": verification.is_intact,
        "name": manifest.name if manifest else None,
        "version": manifest.version if manifest else None,
        "files": len(manifest.artifacts) if manifest else None,
        "size_bytes": sum(artifact.size_bytes for artifact in manifest.artifacts) if manifest else None,
        "manifest_sha256": verification.manifest_sha256 or None,
        "problems": [asdict(problem) for problem in verification.problems],
    }


def _text(folder: Path, verification: Verification) -> str:
    manifest = verification.manifest
    if verification.is_intact and manifest is not None:
        size_bytes = sum(artifact.size_bytes for artifact in manifest.artifacts)
        name = f"{manifest.name} version {manifest.version}"
        return f"{folder}: {name}: {len(manifest.artifacts)} files, {size_bytes} bytes, all intact"
    lines = [f"{folder}: not to be trusted, {len(verification.problems)} problem(s)"]
    return "\n".join(lines + [f"  {problem}" for problem in verification.problems])
