"""Is a bundle on disk exactly what its manifest says: every listed file, byte for byte, and nothing else."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekd_agent.bundle import MANIFEST_NAME, Artifact, BundleProblem, Manifest, ManifestError
from edgekd_agent.reader import digest_of, parse_manifest, read_manifest_bytes
from edgekd_agent.rules import MAX_ARTIFACTS

_MAX_ENTRIES = 4 * MAX_ARTIFACTS


@dataclass(frozen=True)
class Verification:
    """What was found in a bundle folder.

    Attributes:
        manifest: The manifest that was checked, or None when it could not be read.
        manifest_sha256: Digest of its bytes: what a signature must cover; empty when it could not be read.
        problems: Every problem found; empty for a whole bundle.
    """

    manifest: Manifest | None
    manifest_sha256: str
    problems: tuple[BundleProblem, ...]

    @property
    def is_intact(self) -> bool:
        """Whether the folder is exactly what the manifest says."""
        return not self.problems


def verify(folder: Path) -> Verification:
    """Compare a bundle folder with its manifest.

    Sizes are compared before any byte is read, and no more bytes are read than the manifest allows. Links are never
    followed below `folder`.

    Args:
        folder: The bundle.

    Returns:
        The manifest and every problem; a broken bundle is a result, not an exception.
    """
    try:
        content = read_manifest_bytes(folder / MANIFEST_NAME)
        manifest = parse_manifest(content)
    except ManifestError as error:
        return Verification(None, "", error.problems)
    members = {artifact.path: artifact for artifact in manifest.artifacts}
    problems, found = _survey(folder, members)
    sound = [members[path] for path in sorted(found)]
    problems.extend(problem for artifact in sound for problem in _content_problems(folder, artifact))
    problems.extend(
        BundleProblem(path, "missing", "listed, but not there") for path in members.keys() - found - _paths(problems)
    )
    ordered = tuple(sorted(problems, key=lambda problem: (problem.path, problem.kind)))
    return Verification(manifest, hashlib.sha256(content).hexdigest(), ordered)


def _paths(problems: list[BundleProblem]) -> set[str]:
    return {problem.path for problem in problems}


def _survey(folder: Path, members: dict[str, Artifact]) -> tuple[list[BundleProblem], set[str]]:
    """Compare names, kinds and sizes without reading a byte; return problems and the members worth reading."""
    problems: list[BundleProblem] = []
    found: set[str] = set()
    folders = {str(parent) for path in members for parent in PurePosixPath(path).parents}
    try:
        for count, (path, status) in enumerate(_entries(folder, "", folders)):
            if count > _MAX_ENTRIES:
                problems.append(BundleProblem(".", "unlisted", f"more than {_MAX_ENTRIES} entries; looked no further"))
                break
            problem = _entry_problem(path, status, members, folders)
            if problem is not None:
                problems.append(problem)
            elif path in members:
                found.add(path)
    except OSError as error:
        problems.append(BundleProblem(_printable(str(error.filename)), "unreadable", f"not listed: {error.strerror}"))
    return problems, found


def _entries(folder: Path, prefix: str, folders: set[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Walk the folders that hold members, and only those: a hostile tree cannot make the walk deep."""
    with os.scandir(folder / prefix) as entries:
        for entry in entries:
            path, status = prefix + entry.name, entry.stat(follow_symlinks=False)
            yield path, status
            if stat.S_ISDIR(status.st_mode) and path in folders:
                yield from _entries(folder, f"{path}/", folders)


def _entry_problem(
    path: str, status: os.stat_result, members: dict[str, Artifact], folders: set[str]
) -> BundleProblem | None:
    if path == MANIFEST_NAME or (path in folders and stat.S_ISDIR(status.st_mode)):
        return None
    if path not in members:
        return BundleProblem(_printable(path), "unlisted", "not listed in the manifest")
    if not stat.S_ISREG(status.st_mode):
        return BundleProblem(path, "not-a-file", "a link, folder or device, not a regular file")
    if status.st_size != members[path].size_bytes:
        message = f"{status.st_size} bytes, the manifest says {members[path].size_bytes}"
        return BundleProblem(path, "size", message)
    return None


def _printable(name: str) -> str:
    """Return a file name that can neither break an encoder nor drive a terminal."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _content_problems(folder: Path, artifact: Artifact) -> Iterator[BundleProblem]:
    try:
        actual = digest_of(folder / artifact.path, artifact.size_bytes)
    except OSError as error:
        yield BundleProblem(artifact.path, "unreadable", f"cannot be read: {error.strerror}")
        return
    if actual != artifact.sha256:
        yield BundleProblem(artifact.path, "digest", f"sha256 is {actual}, the manifest says {artifact.sha256}")
