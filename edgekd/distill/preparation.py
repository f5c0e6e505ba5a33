"""Letting the terms that need it see training data before their stage starts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from edgekd.core.events import Event, Listener, silent
from edgekd.core.seeds import derive_seed
from edgekd.data import Split, network_inputs
from edgekd.distill.net import TracedNet
from edgekd.distill.session import Session
from edgekd.distill.stage import Stage
from edgekd.distill.terms import Preparation, Prepared
from edgekd.distill.trace import Trace
from edgekd.models import evaluating

_BATCH = 128


def prepare(
    stage: Stage,
    session: Session,
    train: Split,
    device: torch.device,
    *,
    listener: Listener = silent,
    label: str = "",
) -> None:
    """Call `prepare` of every term of a stage that has one, then restart the learners that wait for it.

    Args:
        stage: The stage, its networks on the device.
        session: The run; its seed is the root of what terms draw.
        train: The training split.
        device: Where the training runs.
        listener: Told what terms have to say.
        label: Prefix of the stage's name in events.
    """
    where = "/".join(filter(None, [label, stage.name]))
    for learner in stage.learners:
        targets = learner.target_nets()
        for name, target, term in learner.named_terms():
            if isinstance(term, Prepared):
                traces = partial(_traces, learner.net, targets.get(target, learner.net), train, device)
                labels = torch.from_numpy(train.labels).to(device)
                classes = len(train.task.targets)
                own_seed = derive_seed(session.seed, "prepare", stage.name, learner.role, name, target)
                note = partial(_note, listener, where, name)
                term.prepare(Preparation(labels, classes, device, traces, own_seed, note))
    for spec in stage.spec.learners:
        if spec.start == "fresh-once-prepared":
            session.restart(spec.learner)


def _note(listener: Listener, stage: str, term: str, message: str) -> None:
    listener(Event("note", stage, f"{term}: {message}"))


def _traces(
    net: TracedNet, target: TracedNet, train: Split, device: torch.device, rows: int
) -> Iterator[tuple[Trace, Trace]]:
    # Folders of pictures lie class by class, so the first rows would be of one class.
    chosen = np.arange(min(rows, len(train)), dtype=np.int64) * len(train) // min(rows, len(train))
    with evaluating(net), evaluating(target):
        for first in range(0, len(chosen), _BATCH):
            stored = train.inputs.gather(chosen[first : first + _BATCH])
            inputs = torch.from_numpy(network_inputs(stored)).to(device)
            yield net(inputs).detached(), target(inputs).detached()
