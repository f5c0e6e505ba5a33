"""A release whose engine no longer fits the device (a JetPack upgrade) is built anew from blobs that are here."""

from __future__ import annotations

from edgekd_agent import generations, store
from edgekd_agent.device import Site
from edgekd_agent.errors import AgentError
from edgekd_agent.generations import MANIFEST, Generation
from edgekd_agent.install.steps import candidate_of
from edgekd_agent.install.work import Candidate, Workshop
from edgekd_agent.reader import read_manifest_bytes


def needed(site: Site, generation: Generation, workshop: Workshop) -> Candidate | None:
    """Return a generation as a candidate for the device as it is now; None when its engine still fits."""
    if workshop.engine_key(generation.manifest) == generation.engine_key:
        return None
    content = read_manifest_bytes(site.layout.generation(generation.number) / MANIFEST)
    return candidate_of(site, content, generation.bundle_sha256, generation.manifest, workshop)


def rebuilt(site: Site, generation: Generation, workshop: Workshop) -> Generation:
    """Return a generation whose engine fits: the same one, or a new one of the same bundle; needs no network.

    Raises:
        AgentError: It cannot be built.
    """
    candidate = needed(site, generation, workshop)
    if candidate is None:
        return generation
    for artifact in candidate.artifacts:
        store.require_intact(site.layout, artifact)
    workshop.build(candidate)
    number = generations.next_number(site.layout)
    generations.make(site.layout, number, candidate.content, candidate.engine_key, candidate.artifacts)
    made = generations.read(site.layout.generation(number))
    if made is None:
        raise AgentError("failed", f"generation {number} was made and is not whole")
    return made
