"""Deep-learning accelerators (DLA) of Jetson boards: what can be asked of them, and which layers really ran there.

TensorRT sends what a DLA cannot do to the GPU and says so in its log alone; every change between the two costs a copy.
Not run on hardware yet: the log's forms are those of published logs of TensorRT 8.x and 10.x.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.boards.facts import BoardFacts
from edgekd.boards.options import BoardOptions
from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import BuildError
from edgekd.engine.fusion import DLA, FusedLayer, FusionReport
from edgekd.engine.portability import version_numbers

_SMS = (72, 87)
_LAST_OF_10, _FIRST_OF_11 = (10, 7), (11, 4, 1)
_SHOWN = 3

_ON_DLA = re.compile(r"\[DlaLayer\] (?:[A-Z_]+: )?(\{.+\}|\S.*)$", re.MULTILINE)
_ON_GPU = re.compile(r"\[GpuLayer\] (?:([A-Z_]+): )?(.+)$", re.MULTILINE)
_MOVED = re.compile(r"Layer '(.+)' \(([A-Z_0-9]+)\): Unsupported on DLA\.")
_MOVED_BY_OTHERS = (
    re.compile(r"Default DLA is enabled but layer (.+) is not supported on DLA"),
    re.compile(r"Validation failed for DLA layer: (.+)\. Switching to GPU"),
    re.compile(r"DLA supports only \d+ subgraphs per DLA core\. Switching to GPU for layer (.+)"),
)
_REASON = re.compile(r"(?:^|\] |\| )([^\s:|\]][^:|\]]*): (.*\bDLA\b.*)$")
_COPIES = re.compile(r"(?:to|from) nvm$|copy finish$|^Reformatting CopyNode", re.IGNORECASE)


@dataclass(frozen=True)
class Fallback:
    """A layer that was meant for the DLA and went to the GPU.

    Attributes:
        layer: Its name in the parsed network.
        kind: TensorRT's word for what it is; empty where the log does not say.
        reason: The builder's reason; empty where it gave none.
    """

    layer: str
    kind: str
    reason: str

    def __str__(self) -> str:
        """Return it in words."""
        kind = f" ({self.kind})" if self.kind else ""
        return f"{self.layer}{kind}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Placement:
    """Which layers of an engine run where.

    Attributes:
        on_dla: Subgraphs of the DLA, by the builder's names.
        on_gpu: Layers of the GPU, copies left out.
        fallbacks: Layers of the network that the DLA could not take, in the order of the log.
    """

    on_dla: tuple[str, ...]
    on_gpu: tuple[str, ...]
    fallbacks: tuple[Fallback, ...]

    def moves(self, layers: Sequence[str]) -> int | None:
        """Return how often an inference changes between DLA and GPU; None where the engine's list tells them not apart.

        Args:
            layers: Names of the engine's layers in the order of execution.
        """
        if not set(self.on_dla) & set(layers):
            return None
        places = [name in self.on_dla for name in layers if not _COPIES.search(name)]
        return sum(one != other for one, other in itertools.pairwise(places))

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return dataclasses.asdict(self)


def refusals(model: OnnxModel, facts: BoardFacts, options: BoardOptions) -> Iterator[str]:
    """Say why a board's DLA cannot be given this model; nothing where none is asked for.

    Args:
        model: What is to be built.
        facts: The board as found.
        options: What is asked of it.
    """
    if options.dla_core is None:
        return
    cores = options.target.dla_cores if options.target else None
    if facts.sm not in _SMS or "Orin Nano" in (facts.model or "") or cores == 0:
        yield "it has no DLA (Xavier, AGX Orin and Orin NX have): leave --dla out"
    elif cores is not None and options.dla_core >= cores:
        yield f"it has no DLA core {options.dla_core}: there are {cores}, counted from 0"
    if facts.trtexec is not None and "useDLACore" not in facts.trtexec.options:
        yield f"{facts.trtexec.command[0]} does not know --useDLACore"
    version = version_numbers(facts.tensorrt or "0")
    if version[:2] > _LAST_OF_10 and version < _FIRST_OF_11:
        yield f"TensorRT {facts.tensorrt} has no DLA: 10.7 was the last before 11.4.1"
    if model.precision == "int8" and version < _FIRST_OF_11:
        yield f"the DLA of TensorRT {facts.tensorrt} takes no Q/DQ: build fp16, or use the GPU for int8"
    elif model.precision not in ("fp16", "int8"):
        yield f"a DLA computes in fp16 or int8, the model is {model.precision}"


def placement_from_log(text: str) -> Placement:
    """Read from the builder's log what runs where.

    Args:
        text: The log, of `trtexec` or of TensorRT's Python; warnings and information suffice.
    """
    fallbacks: dict[str, Fallback] = {}
    reasons: dict[str, str] = {}
    for line in text.splitlines():
        if said := _MOVED.search(line):
            fallbacks.setdefault(said[1], Fallback(said[1], said[2], reasons.get(said[1], "")))
        elif other := next((found for form in _MOVED_BY_OTHERS if (found := form.search(line))), None):
            name = other[1].strip()
            fallbacks.setdefault(name, Fallback(name, "", reasons.get(name, "")))
        elif why := _REASON.search(line):
            reasons[why[1]] = why[2].strip().rstrip(".")
    on_gpu = [name.strip() for kind, name in _ON_GPU.findall(text) if kind != "COPY" and not _COPIES.search(name)]
    return Placement(tuple(name.strip() for name in _ON_DLA.findall(text)), tuple(on_gpu), tuple(fallbacks.values()))


def require_used(placement: Placement) -> None:
    """Refuse an engine that runs on the GPU alone; raises `BuildError` with the builder's first reasons."""
    if placement.on_dla:
        return
    why = "; ".join(map(str, placement.fallbacks[:_SHOWN])) or "the log gives no reason"
    raise BuildError(f"no layer of the network runs on the DLA ({why}): leave --dla out to build for the GPU")


def marked(report: FusionReport, placement: Placement) -> FusionReport:
    """Return a report whose subgraphs of the DLA are told by their kind, whatever the inspector calls them."""

    def one(layer: FusedLayer) -> FusedLayer:
        return dataclasses.replace(layer, kind=DLA) if layer.name in placement.on_dla else layer

    return dataclasses.replace(report, layers=tuple(map(one, report.layers)))


def words_of(found: dict[str, Any]) -> str:
    """Return in one line what an engine's facts say of the DLA.

    Args:
        found: `dla` of the facts.
    """
    moves = f", {found['moves']} changes between them" if found["moves"] is not None else ""
    line = f"DLA core {found['core']}: {len(found['on_dla'])} subgraphs there, {len(found['on_gpu'])} layers on the GPU"
    named = [str(Fallback(**each)) for each in found["fallbacks"]]
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f"{line}{moves}" + (f"; not on the DLA: {'; '.join(named[:_SHOWN])}{more}" if named else "")
