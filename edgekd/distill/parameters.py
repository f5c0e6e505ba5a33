"""Which parameters a stage moves, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgekd.distill.layer_rates import LayerRates
from edgekd.distill.learner import Learner
from edgekd.distill.net import TracedNet, modules_after, set_trained, trace_spec
from edgekd.distill.specs import LearnerSpec
from edgekd.distill.trace import map_at

ALIKE = LayerRates()
"""Every layer at the rate of its network."""


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        parameters: The parameters.
        lr: Multiple of the run's learning rate.
        is_decayed: Whether weight decay applies.
    """

    parameters: tuple[nn.Parameter, ...]
    lr: float
    is_decayed: bool


def choose_trained(spec: LearnerSpec, net: TracedNet, input_shape: tuple[int, ...]) -> None:
    """Put what a stage trains of a network in training mode with gradients, and freeze the rest.

    Raises:
        ConfigError: `until` on a network without feature maps.
    """
    net.train_only([part for part in spec.train if part != "head"])
    if spec.until is not None:
        path = map_at(trace_spec(net, input_shape), spec.until)
        for module in modules_after(net, path, input_shape):
            set_trained(module, is_trained=False)
    if "head" in spec.train:
        for module in modules_after(net, net.penultimate, input_shape):
            set_trained(module, is_trained=True)


def parameter_groups(
    spec: LearnerSpec, learner: Learner, input_shape: tuple[int, ...], rates: LayerRates = ALIKE
) -> tuple[Group, ...]:
    """Sort the trainable parameters of a learner, its adapters included, by how the optimiser is to treat them.

    Args:
        spec: What the recipe says of it.
        learner: The learner, frozen where the stage does not train it.
        input_shape: `(C, H, W)` of the data.
        rates: How the learning rate differs from layer to layer.

    Raises:
        ConfigError: Rates of layers that the network does not have.
    """
    multiples = rates.multiples(learner.role, learner.net, input_shape)
    undecayed = {id(parameter) for parameter in learner.undecayed()}
    head = modules_after(learner.net, learner.net.penultimate, input_shape)
    body = {id(parameter) for parameter in learner.net.backbone.parameters()}
    body -= {id(parameter) for module in head for parameter in module.parameters()}
    sorted_by: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in learner.parameters():
        if parameter.requires_grad:
            lr = spec.lr if id(parameter) in body else spec.lr * spec.head_lr
            lr *= multiples.get(id(parameter), 1.0)
            sorted_by.setdefault((lr, id(parameter) not in undecayed), []).append(parameter)
    return tuple(Group(tuple(group), lr, is_decayed) for (lr, is_decayed), group in sorted_by.items())
