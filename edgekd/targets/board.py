"""Put a user's own board together from what is known of it, and keep it as a file checked like the built-in ones.

What a user states wins over what the board says, and that over the built-in device it resembles. All figures belong to
the power mode the board is in. Peaks are computed from SMs and clock, never taken from advertised figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgekd.core import atomic
from edgekd.core.config import validated
from edgekd.core.errors import ConfigError, DataError
from edgekd.targets.device_query import GpuFacts
from edgekd.targets.jetpack import jetpack_line, jetpack_of_l4t
from edgekd.targets.nvpmodel import ConfMode
from edgekd.targets.schema import TargetFile, fma_rates, target_from_entry
from edgekd.targets.target import Target

_SMS_PER_TPC = 2
_JETSON_SM = (53, 62, 72, 87, 110)
_ITS_FIELD = object()


@dataclass(frozen=True)
class BoardKnowledge:
    """Everything known of a board.

    Attributes:
        stated: What the user states, by field of a target file (`sms`, `clock_mhz`, `peaks_tflops`, `jetpack`, ...).
        gpu: What CUDA says.
        mode: Power mode it is in, as `nvpmodel -q` names it.
        modes: Its `/etc/nvpmodel.conf`.
        l4t: L4T release.
        like: The built-in device it resembles.
        seen_by: Where `gpu`, `mode`, `modes` and `l4t` come from, in words, for the status of each figure.
    """

    stated: Mapping[str, Any] = field(default_factory=dict)
    gpu: GpuFacts | None = None
    mode: str | None = None
    modes: tuple[ConfMode, ...] = ()
    l4t: str | None = None
    like: Target | None = None
    seen_by: str = "the board"


def board_document(name: str, known: BoardKnowledge) -> dict[str, Any]:
    """Write down a board as a target file.

    Args:
        name: A name of its own.
        known: What is known of it.

    Returns:
        The checked document, every figure with where it comes from.

    Raises:
        ConfigError: Something needed is not known, or a figure is impossible (all are named).
        DataError: What is known contradicts itself.
    """
    _require_agreement(known)
    entry = _Entry(known).fields()
    missing = [key for key in ("sm", "sms", "clock_mhz", "bandwidth_gb_s") if key not in entry]
    if missing:
        raise ConfigError(
            f"board {name!r}: {', '.join(missing)} not known; state it (--{missing[0].replace('_', '-')}), or name a "
            "device it resembles (--like)"
        )
    document = {"schema_version": 1, "targets": [{"name": name, **entry}]}
    validated(TargetFile, document, f"board {name!r}")
    return document


def board_from(document: Mapping[str, Any]) -> Target:
    """Return the target of a board's document; raises `ConfigError` when it is not valid."""
    return target_from_entry(validated(TargetFile, document, "board").targets[0])


def document_of(target: Target, name: str, *, latency: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write a target down as a board of another name, in the power mode it is in.

    Args:
        target: What the board is.
        name: Name of the board.
        latency: Latency parameters of its own.

    Returns:
        The checked document.

    Raises:
        ConfigError: The name is none.
    """
    facts = dataclasses.asdict(target)
    taken = ("name", "device", "l2_bytes", "sources", "latency", "power_modes", "notes")
    entry = {key: value for key, value in facts.items() if key not in taken and value not in (None, "", {})}
    entry["l2_mb"] = target.l2_bytes and target.l2_bytes / 2**20
    entry["power_modes"] = [
        {key: value for key, value in mode.items() if value is not None} for mode in facts["power_modes"]
    ]
    entry |= {"notes": list(target.notes), "status": {"default": f"as of {target.device}", **target.sources}}
    entry |= {"latency": dict(latency)} if latency is not None else {}
    document = {"schema_version": 1, "targets": [{"name": name, **entry}]}
    validated(TargetFile, document, f"board {name!r}")
    return document


def save_board(path: Path, document: Mapping[str, Any]) -> None:
    """Write a board's document as YAML; raises `StorageError` when it cannot be written."""
    atomic.write_text(path, yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))


def resembling(gpu: GpuFacts, targets: Sequence[Target], top_clock_mhz: float | None = None) -> Target | None:
    """Find the built-in Jetson that an integrated GPU belongs to, by what it has and never by its name.

    Args:
        gpu: What CUDA says.
        targets: Built-in targets.
        top_clock_mhz: Highest GPU clock of any mode, where it is known.

    Returns:
        The one with that architecture, enough SMs, the least memory that suffices and the nearest clock; `None` when
        none fits, or the GPU is no integrated one.
    """
    fitting = [
        target
        for target in targets
        if target.kind == "jetson" and target.sm == gpu.sm and target.name.startswith("jetson-")
        if (target.sms or 0) >= gpu.sms and gpu.memory_gb <= (target.memory_gb or 0) < 1.5 * gpu.memory_gb
    ]
    if not gpu.is_integrated or not fitting:
        return None
    clock = top_clock_mhz or gpu.clock_mhz
    return min(fitting, key=lambda t: (t.memory_gb or 0, abs((t.clock_mhz or 0) - clock)))


class _Entry:
    """The fields of one board; `status` grows as they are chosen."""

    def __init__(self, known: BoardKnowledge) -> None:
        self.known, self.like, self.gpu = known, known.like, known.gpu
        self.status: dict[str, str] = {"default": "S stated by the user"}
        self.mode = _current_mode(known)

    def fields(self) -> dict[str, Any]:
        stated, like = self.known.stated, self.like
        sm = self.pick("sm", self.gpu and self.gpu.sm)
        entry: dict[str, Any] = {
            "title": stated.get("title") or (f"own board like {like.title}" if like else "own board"),
            "kind": like.kind if like else "jetson" if sm in _JETSON_SM else "gpu",
            "generation": stated.get("generation") or (like.generation if like else _generation(sm)),
            "sm": sm,
            "sms": self.pick("sms", self.gpu and self.gpu.sms, self._sms_like()),
            "clock_mhz": self.pick("clock_mhz", self._clock_seen(), self._like_in_mode("clock_mhz")),
            "emc_mhz": self.pick("emc_mhz", self.mode and self.mode.emc_mhz, self._like_in_mode("emc_mhz")),
            "l2_mb": self.pick("l2_mb", self.gpu and self.gpu.l2_mb, like and like.l2_bytes and like.l2_bytes / 2**20),
            "memory_gb": self.pick("memory_gb", None if like else self.gpu and round(self.gpu.memory_gb, 2)),
            "dla_cores": self.pick("dla_cores", None) or 0,
            "power_mode": self._mode_name(),
        }
        entry["bandwidth_gb_s"] = self.pick(
            "bandwidth_gb_s", self.gpu and self.gpu.bandwidth_gb_s, self._bandwidth_like(entry["emc_mhz"])
        )
        entry["peaks_tflops"] = {**self._peaks(entry), **stated.get("peaks_tflops", {})}
        entry["power_modes"] = self._power_modes(entry)
        entry |= self._software()
        for precision in stated.get("peaks_tflops", {}):
            self.status[f"peaks_tflops.{precision}"] = "S stated by the user"
        return {key: value for key, value in entry.items() if value not in (None, {}, [])} | {"status": self.status}

    def _mode_name(self) -> str:
        said = self.known.stated.get("power_mode") or self.known.mode
        if said is None:
            return "as found" if self.gpu or self.like is None else self.like.power_mode
        return self.mode.name if self.mode else str(said)

    def pick(self, key: str, seen: Any, like: Any = _ITS_FIELD) -> Any:
        """Choose the first known of stated, seen and like, and note where it comes from."""
        stated = self.known.stated.get(key)
        noun = {"l2_mb": "l2_bytes"}.get(key, key)
        if stated is not None:
            self.status[noun] = "S stated by the user"
            return stated
        if seen is not None:
            self.status[noun] = f"S {self.known.seen_by}"
            return seen
        value = getattr(self.like, key, None) if like is _ITS_FIELD else like
        if value is not None and self.like is not None:
            self.status[noun] = f"{self.like.sources.get(noun, 'M')} of {self.like.device}"
        return value

    def _clock_seen(self) -> float | None:
        if self.mode is not None and self.mode.gpu_mhz is not None:
            return self.mode.gpu_mhz
        return self.gpu.clock_mhz if self.gpu else None

    def _like_in_mode(self, key: str) -> float | None:
        """Take a figure that depends on the power mode only where the mode is that of the device it resembles."""
        said = self.known.stated.get("power_mode") or self.known.mode
        if self.like is None or (said is not None and self.mode is None and said != self.like.power_mode):
            return None
        value: float | None = getattr(self.like, key)
        return value

    def _sms_like(self) -> int | None:
        if self.like is None or self.like.sms is None:
            return None
        return self.like.sms - _SMS_PER_TPC * (_gated(self.mode or self._fullest()) - _gated(self._fullest()))

    def _fullest(self) -> ConfMode | None:
        return min(self.known.modes, key=_gated, default=None)

    def _bandwidth_like(self, emc_mhz: float | None) -> float | None:
        if self.like is None or self.like.bandwidth_gb_s is None:
            return None
        if emc_mhz is None or self.like.emc_mhz is None:
            return self._like_in_mode("bandwidth_gb_s")
        return round(self.like.bandwidth_gb_s * emc_mhz / self.like.emc_mhz, 1)

    def _peaks(self, entry: Mapping[str, Any]) -> dict[str, float]:
        sms, clock = entry["sms"], entry["clock_mhz"]
        if sms is None or clock is None or entry["sm"] is None:
            return {}
        self.status["peaks_tflops"] = "D"
        if self.like is not None and self.like.sms and self.like.clock_mhz:
            share = sms * clock / (self.like.sms * self.like.clock_mhz)
            return {precision: _figure(peak * share) for precision, peak in self.like.peaks_tflops.items()}
        return {precision: _figure(2e-6 * rate * sms * clock) for precision, rate in fma_rates(entry["sm"]).items()}

    def _power_modes(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        top = self.like.clock_mhz if self.like else None
        rows = []
        for mode in self.known.modes:
            is_current = mode is self.mode
            switched_off = _gated(mode) - _gated(self.mode or self._fullest())
            row = {
                "name": mode.name,
                "id": mode.id,
                "clock_mhz": entry["clock_mhz"] if is_current else mode.gpu_mhz or top,
                "sms": entry["sms"] and entry["sms"] - _SMS_PER_TPC * switched_off,
                "emc_mhz": entry["emc_mhz"] if is_current else mode.emc_mhz or (self.like and self.like.emc_mhz),
                "status": f"S nvpmodel.conf of {self.known.seen_by}",
            }
            rows.append({key: value for key, value in row.items() if value is not None})
        return rows

    def _software(self) -> dict[str, str | None]:
        stated, like = self.known.stated, self.like
        seen_l4t = jetpack_of_l4t(self.known.l4t) if self.known.l4t else None
        release, line = seen_l4t or (None, None)
        of_stated = jetpack_line(stated["jetpack"]) if stated.get("jetpack") else None
        line = of_stated or line
        seen = {} if line is None else {"cuda": line.cuda, "tensorrt": line.tensorrt, "python": line.python}
        result: dict[str, str | None] = {"jetpack": self.pick("jetpack", release)}
        for key in ("cuda", "tensorrt", "python"):
            value = self.pick(key, seen.get(key))
            result[key] = ".".join(value.split(".")[:2]) if value and key != "python" else value
            if of_stated is not None and key not in stated:
                self.status[key] = f"{of_stated.status} of JetPack {stated['jetpack']}"
        result["module_w"] = stated.get("module_w") or (like.module_w if like else None)
        return result


def _current_mode(known: BoardKnowledge) -> ConfMode | None:
    name = known.stated.get("power_mode") or known.mode
    if name is None or not known.modes:
        return None
    for mode in known.modes:
        if mode.name.lower() == name.lower():
            return mode
    names = ", ".join(mode.name for mode in known.modes)
    raise DataError(f"power mode {name!r} is not in nvpmodel.conf, which has {names}")


def _require_agreement(known: BoardKnowledge) -> None:
    gpu, like = known.gpu, known.like
    if gpu is None or like is None:
        return
    if like.sm != gpu.sm:
        raise DataError(f"the GPU is sm_{gpu.sm}, {like.device} is sm_{like.sm}: name another device with --like")
    if like.sms is not None and gpu.sms > like.sms:
        raise DataError(f"the GPU has {gpu.sms} SMs, {like.device} has {like.sms}: name another device with --like")
    if like.memory_gb is not None and gpu.memory_gb > like.memory_gb:
        raise DataError(
            f"the GPU has {gpu.memory_gb:.1f} GiB of memory, {like.device} has {like.memory_gb:g} GB: name another "
            "device with --like"
        )


def _generation(sm: int | None) -> str:
    from edgekd.targets.catalogue import get_target, target_names

    for target in map(get_target, target_names()):
        if target.sm == sm and sm is not None:
            return target.generation
    return "unknown"


def _gated(mode: ConfMode | None) -> int:
    return (mode.gated_tpcs or 0) if mode is not None else 0


def _figure(value: float) -> float:
    return float(f"{value:.4g}")
