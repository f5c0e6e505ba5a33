"""What a manifest must satisfy beyond its types: safe paths, size limits, digests, parts that refer to each other."""

from __future__ import annotations

import re
from datetime import datetime

from edgekd_agent.bundle import MANIFEST_NAME, Artifact, BuildPlan, Health, Manifest, Provenance, media_type_of

MAX_ARTIFACTS = 256
MAX_FILE_BYTES = 4 << 30
MAX_TOTAL_BYTES = 8 << 30
MAX_PATH_CHARS = 200

_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROLE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENGINE = re.compile(r"engines/[0-9a-f]{64}/model\.plan")
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,3}")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_STATISTICS = ("p50", "p90", "p99", "mean")


def problems_of(manifest: Manifest) -> list[str]:
    """List, in words, everything that makes a manifest of the right types unacceptable."""
    return [
        *_identity_problems(manifest),
        *_artifact_problems(manifest.artifacts),
        *_build_problems(manifest.build, {artifact.path for artifact in manifest.artifacts}),
        *_health_problems(manifest.health, {artifact.path for artifact in manifest.artifacts}),
        *_provenance_problems(manifest.provenance),
    ]


def _identity_problems(manifest: Manifest) -> list[str]:
    names = [target.name for target in manifest.targets]
    claims = [
        (_NAME.fullmatch(manifest.name), f"name {manifest.name!r} is not letters, digits and ._-"),
        (manifest.version >= 1, f"version {manifest.version} is below 1"),
        (_is_utc(manifest.created), f"created {manifest.created!r} is not of the form 2026-01-31T12:00:00Z"),
        (_VERSION.fullmatch(manifest.min_agent), f"min_agent {manifest.min_agent!r} is not a version"),
        (names, "targets: at least one is needed"),
        (len(set(names)) == len(names), "targets: a name is given twice"),
    ]
    return [message for holds, message in claims if not holds]


def _is_utc(text: str) -> bool:
    if not _UTC.fullmatch(text):
        return False
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return True


def _artifact_problems(artifacts: tuple[Artifact, ...]) -> list[str]:
    if len(artifacts) > MAX_ARTIFACTS:
        return [f"artifacts: {len(artifacts)} files, at most {MAX_ARTIFACTS} are accepted"]
    problems = [problem for artifact in artifacts for problem in _one_artifact_problems(artifact)]
    paths = [artifact.path for artifact in artifacts]
    roles = [artifact.role for artifact in artifacts]
    total_bytes = sum(artifact.size_bytes for artifact in artifacts)
    claims = [
        (len({path.casefold() for path in paths}) == len(paths), "artifacts: a path is given twice"),
        (paths == sorted(paths), "artifacts: not sorted by path"),
        (len(set(roles)) == len(roles), "artifacts: a role is given twice"),
        (total_bytes <= MAX_TOTAL_BYTES, f"artifacts: {total_bytes} bytes, at most {MAX_TOTAL_BYTES} are accepted"),
    ]
    return problems + [message for holds, message in claims if not holds]


def _one_artifact_problems(artifact: Artifact) -> list[str]:
    path, size = artifact.path, artifact.size_bytes
    claims = [
        (_is_safe_path(path), f"artifact {path!r}: not a plain relative path"),
        (path.casefold() != MANIFEST_NAME, f"artifact {path!r}: the manifest does not list itself"),
        (_ROLE.fullmatch(artifact.role), f"artifact {path!r}: role {artifact.role!r} is not a-z, 0-9 and -"),
        (0 <= size <= MAX_FILE_BYTES, f"artifact {path!r}: size {size} is not in 0..{MAX_FILE_BYTES}"),
        (_SHA256.fullmatch(artifact.sha256), f"artifact {path!r}: sha256 is not 64 hexadecimal digits"),
        (
            media_type_of(path) == artifact.media_type,
            f"artifact {path!r}: media type {artifact.media_type!r} does not go with its suffix",
        ),
        (
            path.endswith(".plan") == path.startswith("engines/") == bool(_ENGINE.fullmatch(path)),
            f"artifact {path!r}: an engine lies at engines/KEY/model.plan and nothing else does",
        ),
    ]
    return [message for holds, message in claims if not holds]


def _is_safe_path(path: str) -> bool:
    return len(path) <= MAX_PATH_CHARS and all(_PATH_PART.fullmatch(part) for part in path.split("/"))


def _build_problems(build: BuildPlan, paths: set[str]) -> list[str]:
    profile = build.opt_profile
    shapes = (profile.min, profile.opt, profile.max)
    is_ordered = len({len(shape) for shape in shapes}) == 1 and all(
        1 <= low <= best <= high for low, best, high in zip(*shapes, strict=True)
    )
    claims = [
        (build.model in paths and build.model.endswith(".onnx"), f"build.model {build.model!r} is no listed ONNX file"),
        (build.flags == tuple(sorted(set(build.flags))), "build.flags: not sorted, or one is given twice"),
        (profile.input_name and profile.min, "build.opt_profile: the input has no name or no shape"),
        (is_ordered, "build.opt_profile: not 1 <= min <= opt <= max in every dimension"),
        (build.workspace_mib >= 1, f"build.workspace_mib {build.workspace_mib} is below 1"),
    ]
    return [message for holds, message in claims if not holds]


def _health_problems(health: Health, paths: set[str]) -> list[str]:
    unknown = sorted(set(health.budget_ms) - set(_STATISTICS))
    memory = health.max_memory_mib
    claims = [
        (
            health.golden in paths and health.golden.endswith(".npz"),
            f"health.golden {health.golden!r} is no listed npz",
        ),
        (health.tolerance >= 0, f"health.tolerance {health.tolerance} is negative"),
        (not unknown, f"health.budget_ms: {', '.join(unknown)} is none of {', '.join(_STATISTICS)}"),
        (all(limit > 0 for limit in health.budget_ms.values()), "health.budget_ms: a limit leaves no time at all"),
        (health.warmup >= 0, f"health.warmup {health.warmup} is negative"),
        (memory is None or memory >= 1, f"health.max_memory_mib {memory} is below 1"),
    ]
    return [message for holds, message in claims if not holds]


def _provenance_problems(provenance: Provenance) -> list[str]:
    digests = [provenance.recipe_sha256, provenance.data_sha256, *provenance.parents]
    return [f"provenance: {text!r} is not a SHA-256 digest" for text in digests if not _SHA256.fullmatch(text)]
