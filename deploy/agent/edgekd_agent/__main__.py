"""`python -m edgekd_agent`: what an operator or a script runs on the device."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgekd_agent.integrity import Verification, verify

EXIT_INTACT = 0
EXIT_USAGE = 2
EXIT_NOT_TRUSTED = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program name; the process's own by default.

    Returns:
        Exit code: 0 intact, 2 wrong usage, 6 not to be trusted.
    """
    parser = argparse.ArgumentParser(prog="edgekd_agent", description="Device side of edgekd.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="compare a bundle folder with its manifest")
    command.add_argument("folder", type=Path, metavar="DIR", help="the bundle")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        sys.stderr.write(f"edgekd_agent: {options.folder} is not a folder\n")
        return EXIT_USAGE
    verification = verify(options.folder)
    text = _as_json(options.folder, verification) if options.json else _as_text(options.folder, verification)
    sys.stdout.write(text + "\n")
    return EXIT_INTACT if verification.is_intact else EXIT_NOT_TRUSTED


def _as_json(folder: Path, verification: Verification) -> str:
    manifest = verification.manifest
    document = {
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
    return json.dumps(document, indent=2)


def _as_text(folder: Path, verification: Verification) -> str:
    manifest = verification.manifest
    if verification.is_intact and manifest is not None:
        size_bytes = sum(artifact.size_bytes for artifact in manifest.artifacts)
        name = f"{manifest.name} version {manifest.version}"
        return f"{folder}: {name}: {len(manifest.artifacts)} files, {size_bytes} bytes, all intact"
    lines = [f"{folder}: not to be trusted, {len(verification.problems)} problem(s)"]
    return "\n".join(lines + [f"  {problem}" for problem in verification.problems])


if __name__ == "__main__":
    sys.exit(main())
