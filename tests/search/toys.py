"""A space and students made of formulas: a search over them takes milliseconds."""

import math

from edgekd.core.artifacts import LatencyReport
from edgekd.core.budget import parse_budget
from edgekd.search.costs import Cost
from edgekd.search.space import Dimension, FamilySpace, SearchSpace, values_of
from edgekd.search.worker import Plan

SPACE = SearchSpace(
    (
        FamilySpace("resnet", (Dimension("depth", (8, 14, 20)), Dimension("width", (4, 8, 16, 32)))),
        FamilySpace(
            "mobilenetv2",
            (Dimension("width", (4, 8, 16)), Dimension("kernel", ("3", "5"), is_ordered=False)),
        ),
    )
)


def cost_of(point):
    values = values_of(point)
    macs = values["width"] ** 2 * values.get("depth", 10) * int(values.get("kernel", "3"))
    ms = 0.1 + macs * 1e-4
    latency = LatencyReport("predicted", "orin", "fp16", "ops", ms, 1.5 * ms, 0.8 * ms, 1.2 * ms)
    return Cost(f"{point['family']}-{macs}", macs, macs, 4 * macs, latency)


def final_score(point):
    """Larger is better with diminishing returns; mobilenetv2 is better for its size."""
    macs = cost_of(point).macs * (3 if point["family"] == "mobilenetv2" else 1)
    return 1 - 1 / math.log2(macs + 4)


class ToyStudents:
    def __init__(self, epochs=9, on_train=None):
        self.epochs, self.on_train = epochs, on_train
        self.trained, self.epochs_spent = [], 0

    def cost(self, point):
        return cost_of(point)

    def train(self, point, goes_on):
        self.trained.append(point)
        if self.on_train is not None:
            self.on_train(point)
        for epoch in range(1, self.epochs + 1):
            self.epochs_spent += 1
            score = final_score(point) * (1 - 0.5**epoch)
            if not goes_on(epoch, score):
                return score, epoch
        return score, self.epochs


def plan(budget="p99<1ms", trials=8, **changes):
    settings = {
        "space": SPACE,
        "budget": parse_budget(budget) if budget else None,
        "objectives": ("score", "p99", "memory"),
        "rungs": (1, 3, 9),
        "share": 1 / 3,
        "trials": trials,
        "no_skill": 0.1,
        "seed": 0,
    }
    return Plan(**{**settings, **changes})
