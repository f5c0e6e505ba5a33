"""A frozen network that answers from its cache: what is there is read, what lacks is computed and kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import ConfigError, StorageError
from edgekd.data import Batch, SampleViews
from edgekd.data.inputs import Rows
from edgekd.distill.net import TracedNet
from edgekd.distill.step import Step
from edgekd.distill.teacher_cache.encoding import Layout, Stored
from edgekd.distill.teacher_cache.key import digest_of
from edgekd.distill.teacher_cache.rows import Shelf, ViewRows, is_small
from edgekd.distill.trace import Trace

_LOGITS, _FEAT, _AUX = "logits", "feat:", "aux:"
_SAME = 0.05
"""Relative distance up to which outputs of one network count as the same, bf16 on two devices among them."""


@dataclass(frozen=True)
class Keeping:
    """How outputs are kept.

    Attributes:
        folder: Where those of this network are.
        rows: Rows that a view has.
        copies: How many of them lie together, of one sample.
        views: The views that epochs show.
        stored: Type of values on disk.
        top: How many logits are kept, None for all.
        takes_any_shape: Whether the network may run on a part of a batch; one that was compiled for a shape may not.
        processes: How many train together.
        note: Tells the user something.
    """

    folder: Path
    rows: int
    copies: int
    views: SampleViews
    stored: Stored
    top: int | None
    takes_any_shape: bool
    processes: int
    note: Callable[[str], None]


@dataclass
class Counted:
    """What a cache did.

    Attributes:
        batches: Batches asked for.
        spared: Those without a pass of the network.
        rows: Rows asked for.
        read: Those that were there.
    """

    batches: int = 0
    spared: int = 0
    rows: int = 0
    read: int = 0


class Recall:
    """Gives a frozen network's traces of views of the training split.

    What was just computed is given as it is read later, rounded: a run that fills a cache is the run that reads it.
    The first batch always runs the network. It says what the parts of a trace are, and what is there has to agree.

    Args:
        net: The network, frozen and tapped as the stage needs it.
        keeping: How outputs are kept.
    """

    def __init__(self, net: TracedNet, keeping: Keeping) -> None:
        self._net, self._keeping = net, keeping
        self._kinds: dict[str, tuple[Layout, torch.dtype]] = {}
        self._parts: dict[str, ViewRows] = {}
        self._views: dict[int, dict[str, ViewRows]] = {}
        self._epoch = -1
        self._is_refused = False
        self.counted = Counted()

    def __call__(self, batch: Batch, step: Step) -> Trace:
        """Return the trace of a batch without a graph; `batch.ids` are rows of the training split.

        Raises:
            StorageError: What is kept differs from what the network gives.
        """
        ids = self._slots(batch.read_ids())
        live = None
        if not self._kinds:
            live = self._run(batch.inputs)
            self._kinds = {name: self._kind(name, values) for name, values in parts_of(live).items()}
        self._turn_to(step.epoch)
        lacks = ~np.logical_and.reduce([part.has(ids) for part in self._parts.values()])
        if live is not None:
            self._compare(live, ids, ~lacks)
        if lacks.any():
            self._compute(batch.inputs, ids, lacks, live)
        self._count(lacks, is_spared=live is None and not lacks.any())
        return self._trace(batch.inputs, ids)

    def flush(self) -> None:
        """Write what was computed."""
        for part in (part for parts in self._views.values() for part in parts.values()):
            part.flush()

    def _slots(self, ids: Rows) -> Rows:
        copies = self._keeping.copies
        return ids if copies == 1 else ids * copies + np.arange(len(ids)) % copies

    def _turn_to(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self.flush()
        if self._keeping.processes > 1:
            dist.barrier()  # what the others computed is on disk from here on
        view = self._keeping.views.number(epoch)
        if view not in self._views:
            self._make_room()
            self._views[view] = {name: ViewRows(self._shelf(name, view)) for name in self._kinds}
        self._parts, self._epoch = self._views[view], epoch
        for part in self._parts.values():
            part.load()

    def _make_room(self) -> None:
        """Give up views that do not come again, else those seen first until another one is a small share of memory."""
        size = self._keeping.rows * sum(layout.row_bytes for layout, _ in self._kinds.values())
        self._parts = {}
        while self._views and (self._keeping.views.count is None or not is_small(size)):
            del self._views[next(iter(self._views))]

    def _shelf(self, name: str, view: int) -> Shelf:
        layout, dtype = self._kinds[name]
        of = [name, layout.stored, layout.top, str(dtype), list(layout.shape)]
        if name.startswith(_AUX):
            of.append(digest_of(self._net.attachments))
        readable = re.sub(r"[^\w.-]", "-", name)
        folder = self._keeping.folder / f"{readable}-{sha256_of_json(of)[:8]}" / f"view-{view:05d}"
        label = "/".join(folder.parts[-3:])
        return Shelf(folder, label, self._keeping.rows, layout.row_bytes, self._keeping.note, self._refused)

    def _refused(self, error: StorageError) -> None:
        if not self._is_refused:
            self._is_refused = True
            self._keeping.note(f"outputs are not kept: {error}. Training goes on; they are tried again with the next")

    def _kind(self, name: str, values: Tensor) -> tuple[Layout, torch.dtype]:
        if not values.is_floating_point():
            raise ConfigError(
                f"{name} of the teacher is {values.dtype}, which is not kept: set train.teacher_cache=null"
            )
        shape = tuple(values.shape[1:])
        return layout_of(name, shape, stored=self._keeping.stored, top=self._keeping.top), values.dtype

    def _run(self, inputs: Tensor) -> Trace:
        with torch.no_grad():
            trace: Trace = self._net(inputs)
        return trace

    def _compute(self, inputs: Tensor, ids: Rows, lacks: NDArray[np.bool_], live: Trace | None) -> None:
        is_whole = lacks.all() or not self._keeping.takes_any_shape
        if not is_whole:
            ids, inputs, live = ids[lacks], inputs[torch.from_numpy(lacks).to(inputs.device)], None
        computed = parts_of(live or self._run(inputs))
        for name, part in self._parts.items():
            absent = ~part.has(ids)
            if absent.any():
                values = computed[name][torch.from_numpy(absent).to(inputs.device)]
                part.add(ids[absent], self._kinds[name][0].packed(values))

    def _compare(self, live: Trace, ids: Rows, is_here: NDArray[np.bool_]) -> None:
        if not is_here.any():
            return
        rows, computed = torch.from_numpy(is_here).to(live.logits.device), parts_of(live)
        for name, (layout, _) in self._kinds.items():
            records = layout.packed(computed[name][rows])
            given, kept = (
                layout.unpacked(one, device=torch.device("cpu"), dtype=torch.float32)
                for one in (records, self._parts[name].take(ids[is_here]))
            )
            distance = ((kept - given).norm() / given.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()
            if not distance <= _SAME:
                raise StorageError(
                    f"{self._keeping.folder} is stale: {name} kept there differ from what the teacher gives now by "
                    f"{100 * distance:.0f} % on {int(is_here.sum())} rows, so code of the teacher or of the "
                    "augmentation has changed. Remove the folder, or take another train.teacher_cache"
                )

    def _count(self, lacks: NDArray[np.bool_], *, is_spared: bool) -> None:
        self.counted.batches += 1
        self.counted.spared += is_spared
        self.counted.rows += len(lacks)
        self.counted.read += int((~lacks).sum())

    def _trace(self, inputs: Tensor, ids: Rows) -> Trace:
        values = {name: self._values(name, ids, inputs.device) for name in self._kinds}
        feats = {path: values[f"{_FEAT}{path}"] for path in self._net.taps}
        aux = {name.removeprefix(_AUX): value for name, value in values.items() if name.startswith(_AUX)}
        return Trace(values[_LOGITS], feats, aux, inputs, kind=self._net.kind)

    def _values(self, name: str, ids: Rows, device: torch.device) -> Tensor:
        layout, dtype = self._kinds[name]
        return layout.unpacked(self._parts[name].take(ids), device=device, dtype=dtype)


def layout_of(part: str, shape: tuple[int, ...], *, stored: Stored, top: int | None) -> Layout:
    """Return how a part of a trace is kept; raises `ConfigError` where `top` does not fit its logits."""
    if part != _LOGITS or top is None:
        return Layout(shape, stored)
    if len(shape) != 1 or not top < shape[0]:
        raise ConfigError(f"train.cache_top_k={top} keeps fewer logits than a vector has; here they are {shape}")
    return Layout(shape, stored, top)


def parts_of(trace: Trace) -> dict[str, Tensor]:
    """Return what a cache keeps of a trace, by name."""
    feats = {f"{_FEAT}{path}": value for path, value in trace.feats.items()}
    return {_LOGITS: trace.logits, **feats, **{f"{_AUX}{name}": value for name, value in trace.aux.items()}}
