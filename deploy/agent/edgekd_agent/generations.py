"""Installed releases by number, and the links that say which one runs and which one to go back to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd_agent import documents, durable, journal, strict
from edgekd_agent.bundle import Artifact, Manifest, ManifestError
from edgekd_agent.layout import Layout, checked_digest
from edgekd_agent.reader import parse_manifest, read_manifest_bytes

MANIFEST = "manifest.json"
ABOUT = "generation.json"
ENGINE = "engine"


@dataclass(frozen=True)
class Generation:
    """An installed release.

    Attributes:
        number: Grows with each install.
        bundle_sha256: Digest of its `bundle.json`.
        engine_key: Key of the engine it runs.
        manifest: What its bundle says.
    """

    number: int
    bundle_sha256: str
    engine_key: str
    manifest: Manifest

    def summary(self) -> Mapping[str, object]:
        """Return what reports say of it."""
        return {
            "generation": self.number,
            "name": self.manifest.name,
            "version": self.manifest.version,
            "bundle_sha256": self.bundle_sha256,
        }


def link_name(artifact: Artifact) -> str:
    """Return what a generation calls a file: its role and suffix."""
    return artifact.role + Path(artifact.path).suffix


def read(folder: Path) -> Generation | None:
    """Return the generation in a folder, or None when there is no whole one.

    Whole means: the manifest is the one that was installed, every link is there and leads to something.
    """
    about = documents.read(folder / ABOUT)
    try:
        content = read_manifest_bytes(folder / MANIFEST)
        manifest = parse_manifest(content)
        number = int(folder.name)
        engine_key = checked_digest(str((about or {}).get("engine_key")))
    except (ManifestError, ValueError):
        return None
    digest = hashlib.sha256(content).hexdigest()
    if about is None or about.get("bundle_sha256") != digest:
        return None
    links = [folder / ENGINE, *(folder / name for name in about.get("links", ()))]
    if not all(link.is_symlink() and link.exists() for link in links):
        return None
    return Generation(number, digest, engine_key, manifest)


def linked(link: Path) -> Generation | None:
    """Return the generation that `current` or `previous` leads to, or None."""
    try:
        name = link.readlink().name
    except OSError:
        return None
    return read(link.parent / "generations" / name)


def next_number(layout: Layout) -> int:
    """Return a number that no generation has had, as far as the disk and the journal remember."""
    names = [path.name.partition(".")[0] for path in layout.generations.glob("*")]
    told = [record.facts.get("generation") for record in journal.read(layout.journal).records]
    numbers = [int(name) for name in names if name.isdigit()] + [item for item in told if isinstance(item, int)]
    return 1 + max(numbers, default=0)


def make(layout: Layout, number: int, content: bytes, engine_key: str, artifacts: tuple[Artifact, ...]) -> None:
    """Make a generation out of blobs and a build that are there; it appears whole or not at all.

    Args:
        layout: Where.
        number: Its number.
        content: The bytes of `bundle.json`.
        engine_key: Key of a finished build.
        artifacts: Files of the bundle to link.
    """
    folder = layout.generation(number)
    candidate = folder.with_name(folder.name + durable.NEW)
    durable.make_folder(layout.generations)
    durable.remove_tree(candidate)
    durable.mkdir(candidate)
    for artifact in artifacts:
        path = layout.blob(artifact.sha256).relative_to(layout.root)
        durable.symlink(f"../../{path}", candidate / link_name(artifact))
    durable.symlink(f"../../{layout.build(engine_key).relative_to(layout.root)}", candidate / ENGINE)
    durable.write_new(candidate / MANIFEST, content)
    about = {
        "schema_version": 1,
        "bundle_sha256": hashlib.sha256(content).hexdigest(),
        "engine_key": engine_key,
        "links": sorted(map(link_name, artifacts)),
    }
    durable.write_new(candidate / ABOUT, strict.canonical(about))
    durable.fsync_folder(candidate)
    durable.rename(candidate, folder)
    durable.fsync_folder(layout.generations)


def point(layout: Layout, link: Path, number: int | None) -> None:
    """Let `current` or `previous` lead to a generation, or to none; one step, durable."""
    if number is not None:
        durable.replace_link(link, f"generations/{number}")
    elif link.is_symlink():
        durable.unlink(link)
        durable.fsync_folder(layout.root)
