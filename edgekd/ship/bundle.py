"""Pack a bundle folder, look inside one, and check one: the host's side of the format that `edgekd_agent` owns.

A bundle says what it contains, not who made it. Its digest (`Bundle.manifest.sha256`) covers every byte of it, so a
signature needs to cover nothing else.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekd_agent
from edgekd_agent import MANIFEST_NAME, Artifact, Manifest, ManifestError, Verification, manifest_bytes, parse_manifest

from edgekd.core import atomic
from edgekd.core.artifacts import Bundle, FileRef
from edgekd.core.errors import BundleError, ConfigError, StorageError
from edgekd.ship.golden import GOLDEN_PATH, Golden, npz_bytes
from edgekd.ship.placement import replacing_folder
from edgekd.ship.plan import BundlePlan, member_path

_MIN_AGENT = "0.1.0"
_GOLDEN_ROLE = "golden"


def pack(
    folder: Path, *, name: str, version: int, files: Mapping[str, Path], golden: Golden, plan: BundlePlan
) -> Bundle:
    """Write a bundle folder, all of it or nothing; an older bundle in its place is replaced at once.

    The same arguments give the same bytes.

    Args:
        folder: The bundle to make.
        name: Name of the model line.
        version: Release number, at least 1.
        files: Source file by role (`{"model-fp16": path}`); the file is called after its role in the bundle.
        golden: Inputs and expected logits.
        plan: Targets, build plan, health check, provenance.

    Returns:
        The bundle.

    Raises:
        ConfigError: The arguments do not make a valid manifest, or `folder` holds something that is no bundle.
        DataError: The golden arrays are unusable.
        StorageError: A source is missing, or the folder cannot be written.
        BundleError: What was written is not what was packed.
    """
    folder = folder.absolute()
    sources = _sources(files)
    golden_bytes = npz_bytes(golden)
    require_replaceable(folder)
    with replacing_folder(folder) as staging:
        for path, source in sources.items():
            _copy(source, staging / path)
        atomic.write_bytes(staging / GOLDEN_PATH, golden_bytes)
        roles = {member_path(role, source.suffix): role for role, source in files.items()} | {GOLDEN_PATH: _GOLDEN_ROLE}
        artifacts = tuple(_artifact(staging, path, roles[path]) for path in sorted(roles))
        manifest = _manifest(name, version, artifacts, plan)
        atomic.write_bytes(staging / MANIFEST_NAME, checked_bytes(manifest))
        _require_intact(staging, edgekd_agent.verify(staging))
    return _bundle(folder, manifest)


def verify(folder: Path) -> Bundle:
    """Check that a bundle folder is exactly what its manifest says.

    Args:
        folder: The bundle.

    Returns:
        The bundle.

    Raises:
        ConfigError: There is no such folder.
        BundleError: Lists every problem.
    """
    _require_folder(folder)
    return _bundle(folder, _require_intact(folder, edgekd_agent.verify(folder)))


def inspect(folder: Path) -> dict[str, Any]:
    """Tell what a bundle contains, intact or not.

    Args:
        folder: The bundle.

    Returns:
        Plain data: `folder`, `manifest` (as in the file), `manifest_sha256`, `size_bytes`, `is_intact`, `problems`.

    Raises:
        ConfigError: There is no such folder.
        BundleError: The manifest itself cannot be read.
    """
    _require_folder(folder)
    verification = edgekd_agent.verify(folder)
    if verification.manifest is None:
        raise _bundle_error(folder, verification)
    return {
        "folder": str(folder),
        "manifest": dataclasses.asdict(verification.manifest),
        "manifest_sha256": verification.manifest_sha256,
        "size_bytes": _size_bytes(verification.manifest),
        "is_intact": verification.is_intact,
        "problems": [dataclasses.asdict(problem) for problem in verification.problems],
    }


def _sources(files: Mapping[str, Path]) -> dict[str, Path]:
    sources: dict[str, Path] = {}
    for role, source in sorted(files.items()):
        path = member_path(role, source.suffix)
        if role in (_GOLDEN_ROLE, Path(MANIFEST_NAME).stem):
            raise ConfigError(f"role {role!r} is taken by the bundle itself")
        if Path(role).name != role:
            raise ConfigError(f"role {role!r} is not a plain word")
        if edgekd_agent.media_type_of(path) is None:
            raise ConfigError(f"{source}: files ending in {source.suffix!r} may not be in a bundle")
        if not source.is_file():
            raise StorageError(f"{source}: no such file, wanted as {role!r}")
        sources[path] = source
    return sources


def require_replaceable(folder: Path) -> None:
    """Refuse to put a bundle in the place of something that is none; raises `ConfigError`."""
    is_other = folder.is_symlink() or (folder.exists() and not folder.is_dir())
    if is_other or (folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file()):
        raise ConfigError(f"{folder} exists and is not a bundle; choose another folder or remove it")


def _copy(source: Path, target: Path) -> None:
    with atomic.replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _artifact(staging: Path, path: str, role: str) -> Artifact:
    file = FileRef.of(staging / path)
    media_type = edgekd_agent.media_type_of(path) or ""
    return Artifact(path, role, media_type, file.size_bytes, file.sha256)


def _manifest(name: str, version: int, artifacts: tuple[Artifact, ...], plan: BundlePlan) -> Manifest:
    return Manifest(
        schema_version=1,
        name=name,
        version=version,
        created=plan.created,
        min_agent=_MIN_AGENT,
        targets=plan.targets,
        artifacts=artifacts,
        build=plan.build,
        health=plan.health,
        provenance=plan.provenance,
    )


def checked_bytes(manifest: Manifest) -> bytes:
    """Encode a manifest and read it as a device will, so that nothing is packed that no device accepts.

    Raises:
        ConfigError: Every reason why no device would.
    """
    try:
        content = manifest_bytes(manifest)
        parse_manifest(content)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the manifest cannot be written as JSON: {error}") from error
    except ManifestError as error:
        raise ConfigError("; ".join(problem.message for problem in error.problems)) from error
    return content


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")


def _require_intact(folder: Path, verification: Verification) -> Manifest:
    if verification.manifest is None or not verification.is_intact:
        raise _bundle_error(folder, verification)
    return verification.manifest


def _bundle_error(folder: Path, verification: Verification) -> BundleError:
    lines = [f"{folder}: not to be trusted, {len(verification.problems)} problem(s); copy or pack it again"]
    return BundleError("\n".join(lines + [f"  {problem}" for problem in verification.problems]))


def _bundle(folder: Path, manifest: Manifest) -> Bundle:
    return Bundle(
        manifest=FileRef.of(folder / MANIFEST_NAME),
        files=len(manifest.artifacts),
        size_bytes=_size_bytes(manifest),
        parents=manifest.provenance.parents,
    )


def _size_bytes(manifest: Manifest) -> int:
    return sum(artifact.size_bytes for artifact in manifest.artifacts)
