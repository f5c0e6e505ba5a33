"""The real workshop: builds and checks in limited children, keeps engines by key."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd_agent import durable, space, strict
from edgekd_agent.bundle import Manifest
from edgekd_agent.device import Site
from edgekd_agent.engine import child, facts, keys
from edgekd_agent.engine.building import TIMING
from edgekd_agent.engine.running import BUILD, PLAN, require_build
from edgekd_agent.errors import AgentError, Kind
from edgekd_agent.install.work import Candidate, prebuilt_engine
from edgekd_agent.reader import digest_of

_MIB = 1 << 20
_BUILD_NICE = 10
_DISK_FLOOR_BYTES = 1 << 18
_DISK_FULL = "No space left on device"
_MEMORY_SHARE = 0.85
_MEMORY_FLOOR_BYTES = 256 * _MIB
_DATA_MARGIN_BYTES = 2 << 30
_KINDS: Mapping[str, Kind] = {"health": "health", "budget": "budget", "memory": "memory", "build": "build"}


class Shop:
    """Builds and checks on this device.

    Args:
        site: The device.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def engine_key(self, manifest: Manifest) -> str:
        """Return the key of the engine that this device needs for a manifest."""
        return keys.engine_key(manifest, facts.gather(self._site.layout))

    def build(self, candidate: Candidate) -> None:
        """See to it that there is a finished build: one from before, a signed one, or a new one.

        Raises:
            AgentError: `"build"` when it crashed, was refused, took too long or too much memory; `"precondition"` when
                the device is too short of memory or too hot to begin.
        """
        if self._is_built(candidate):
            return
        if (artifact := prebuilt_engine(candidate.manifest, candidate.engine_key)) is not None:
            plan = {"sha256": artifact.sha256, "size_bytes": artifact.size_bytes}
            about = {"backend": "tensorrt", "source": "bundle", "seconds": 0.0, "peak_memory_bytes": 0}
            self._keep(candidate, about, plan, link=candidate.layout.blob(artifact.sha256))
            return
        self._build_new(candidate)

    def check(self, candidate: Candidate, *, is_timed: bool) -> Mapping[str, Any]:
        """Check a built candidate in a child.

        Raises:
            AgentError: `"health"`, `"budget"` or `"memory"`.
        """
        settings, manifest, layout = self._site.settings, candidate.manifest, candidate.layout
        job = {
            "build": str(layout.build(candidate.engine_key)),
            "model": str(candidate.file(manifest.build.model)),
            "golden": str(candidate.file(manifest.health.golden)),
            "plan": dataclasses.asdict(manifest.build),
            "health": dataclasses.asdict(manifest.health),
            "is_timed": is_timed,
            "soak_s": settings.soak_s,
        }
        limits = child.Limits(settings.check_timeout_s + settings.soak_s, self._memory_limit())
        ended = child.run("check", job, folder=layout.work, log=self._log("check"), limits=limits)
        if ended.ending == "done":
            return {**ended.result, "seconds": ended.seconds}
        self._require_disk(ended)
        kind: Kind = "memory" if ended.ending == "out_of_memory" else _KINDS.get(ended.kind, "health")
        raise AgentError("health" if kind == "build" else kind, ended.message)

    def _is_built(self, candidate: Candidate) -> bool:
        try:
            require_build(candidate.layout.build(candidate.engine_key))
        except AgentError:
            return False
        return True

    def _build_new(self, candidate: Candidate) -> None:
        layout, manifest = candidate.layout, candidate.manifest
        known = facts.gather(layout)
        backend = keys.backend_for(manifest, known)
        self._require_room()
        timing_key = keys.timing_key(manifest, known)
        job = {
            "backend": backend,
            "model": str(candidate.file(manifest.build.model)),
            "plan": dataclasses.asdict(manifest.build),
            "timing": self._timing(candidate, timing_key) if manifest.build.timing_cache == "equal-key-only" else None,
        }
        limit = self._memory_limit()
        data = limit + _DATA_MARGIN_BYTES if backend == "onnxruntime" else None
        limits = child.Limits(self._site.settings.build_timeout_s, limit, _BUILD_NICE, data)
        ended = child.run("build", job, folder=layout.work, log=self._log("build"), limits=limits)
        if ended.ending != "done":
            self._require_disk(ended)
            raise AgentError("build", ended.message)
        plan = self._plan(layout.work / PLAN) if backend == "tensorrt" else None
        about = {"backend": backend, "source": "built", "facts": dict(known), **ended.result}
        about.update(seconds=ended.seconds, peak_memory_bytes=ended.peak_memory_bytes)
        self._keep(candidate, about, plan, built=layout.work / PLAN)
        self._keep_timing(layout.work / TIMING, timing_key)

    def _plan(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise AgentError("build", "the build ended well but left no plan")
        durable.settle(path)
        size_bytes = path.stat().st_size
        return {"sha256": digest_of(path, size_bytes), "size_bytes": size_bytes}

    def _keep(
        self,
        candidate: Candidate,
        about: Mapping[str, Any],
        plan: Mapping[str, Any] | None,
        *,
        built: Path | None = None,
        link: Path | None = None,
    ) -> None:
        """Put a build in its place whole, with what is known of it."""
        final = candidate.layout.build(candidate.engine_key)
        folder = final.with_name(final.name + durable.NEW)
        durable.make_folder(final.parent)
        durable.remove_tree(folder)
        durable.mkdir(folder)
        if plan is not None and built is not None:
            durable.rename(built, folder / PLAN)
        if link is not None:
            durable.symlink(f"../../{link.relative_to(candidate.layout.root)}", folder / PLAN)
        document = {"schema_version": 1, "key": candidate.engine_key, "plan": plan, "time_s": time.time(), **about}
        durable.write_new(folder / BUILD, strict.canonical(document))
        durable.fsync_folder(folder)
        durable.remove_tree(final)
        durable.rename(folder, final)
        durable.fsync_folder(final.parent)

    def _timing(self, candidate: Candidate, key: str) -> str | None:
        own = candidate.layout.timing_cache(key)
        signed = f"timing/{key}.cache"
        if own.is_file():
            return str(own)
        return str(candidate.file(signed)) if any(item.path == signed for item in candidate.artifacts) else None

    def _keep_timing(self, made: Path, key: str) -> None:
        if made.is_file():
            durable.make_folder_lightly(self._site.layout.timing)
            durable.replace_whole(self._site.layout.timing_cache(key), made.read_bytes())

    def _require_room(self) -> None:
        available, hottest = facts.available_memory_bytes(), facts.hottest_c()
        most = self._site.settings.max_temperature_c
        if available < _MEMORY_FLOOR_BYTES:
            raise AgentError("precondition", f"{available // _MIB} MiB of memory are free, too few to build an engine")
        if most is not None and hottest is not None and hottest > most:
            raise AgentError(
                "precondition", f"the device is at {hottest:g} degrees, too hot to build (at most {most:g})"
            )

    def _require_disk(self, ended: child.Ended) -> None:
        """A child that failed because the disk is full says nothing of the release."""
        free = space.free_bytes(self._site)
        if free < _DISK_FLOOR_BYTES or _DISK_FULL in ended.message + ended.log:
            raise AgentError("space", f"{ended.message}: the disk is full ({free} bytes are free)")

    def _memory_limit(self) -> int:
        given = self._site.settings.build_memory_mib
        return given * _MIB if given is not None else int(_MEMORY_SHARE * facts.available_memory_bytes())

    def _log(self, part: str) -> Path:
        return self._site.layout.logs / f"{part}-{time.strftime('%Y%m%dT%H%M%S')}.log"
