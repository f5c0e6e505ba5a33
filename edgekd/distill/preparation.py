"""Letting the terms that need it see training data before their stage starts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from edgekd.data import Split, eval_batches
from edgekd.distill.net import TracedNet
from edgekd.distill.stage import Stage
from edgekd.distill.terms import Preparation, Prepared
from edgekd.distill.trace import Trace
from edgekd.models import evaluating

_BATCH = 128


def prepare(stage: Stage, train: Split, device: torch.device) -> None:
    """Call `prepare` of every term of a stage that has one.

    Args:
        stage: The stage, its networks on the device.
        train: The training split.
        device: Where the training runs.
    """
    for learner in stage.learners:
        targets = learner.target_nets()
        for _, target, term in learner.named_terms():
            if isinstance(term, Prepared):
                traces = partial(_traces, learner.net, targets.get(target, learner.net), train, device)
                labels = torch.from_numpy(train.labels).to(device)
                classes = len(train.task.targets)
                term.prepare(Preparation(labels, classes, device, traces))


def _traces(
    net: TracedNet, target: TracedNet, train: Split, device: torch.device, rows: int
) -> Iterator[tuple[Trace, Trace]]:
    left = rows
    with evaluating(net), evaluating(target):
        for batch in eval_batches(train, batch_size=_BATCH):
            if left <= 0:
                return
            inputs = batch.inputs[:left].to(device)
            left -= len(inputs)
            yield net(inputs).detached(), target(inputs).detached()
