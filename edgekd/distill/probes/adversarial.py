"""Whether what fools the teacher also changes the student's mind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import ConfigError, DataError
from edgekd.data import Split
from edgekd.distill.probes.answers import BATCH_SIZE, decisions, device_of
from edgekd.distill.probes.pictures import Pictures, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of, prefixed
from edgekd.models import evaluating


def iterative_fgsm(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, epsilon: float, steps: int, step_size: float
) -> Tensor:
    """Ascend the loss at the true label by steps of the gradient's sign, inside a ball and inside 0..1.

    `x <- clip(x + step_size * sign(grad_x CE(z(x), y)), x_0 - epsilon, x_0 + epsilon)`, then into 0..1.

    Args:
        network: `[B, C, H, W]` in 0..1 to logits; it runs in evaluation mode and is left as it was.
        inputs: `x_0`, `[N, C, H, W]`.
        labels: int64 `[N]`.
        epsilon: Largest change of a pixel.
        steps: How many.
        step_size: Change of a pixel in one step.

    Returns:
        `[N, C, H, W]` on the CPU.

    Reference:
        Kurakin et al. 2017, arXiv 1607.02533.
    """
    device = device_of(network)
    moved = []
    with evaluating(network), torch.enable_grad():
        for part, wanted in zip(torch.split(inputs, BATCH_SIZE), torch.split(labels, BATCH_SIZE), strict=True):
            start, label = part.to(device), wanted.to(device)
            low, high = (start - epsilon).clamp(min=0), (start + epsilon).clamp(max=1)
            now = start
            for _ in range(steps):
                leaf = now.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(network(leaf), label, reduction="sum"), leaf)
                now = (now + step_size * gradient.sign()).clamp(low, high)
            moved.append(now.detach().cpu())
    return torch.cat(moved)


def adversarial(
    models: Models, split: Split, *, epsilon: float = 0.1, steps: int = 5, images: int = 5000, seed: int = 0
) -> Figures:
    """How often a student's decision changes on pictures made to fool the teacher.

    Only pictures that the teacher decided right before and wrong after the attack are kept.

    Args:
        models: Roles `teacher`, `student`, and `independent`, `foreign` where given.
        split: Where pictures are drawn from.
        epsilon: Largest change of a pixel, pixels in 0..1.
        steps: Sign steps, each of `2 * epsilon / steps`, so that the ball is reached half-way.
        images: How many pictures at most.
        seed: Decides which.

    Returns:
        For each student `fooling_rate`, the share of kept pictures on which its decision changes; with a `foreign`
        network also `foreign_fooling_rate`, the same for an attack on that one: there the students should be alike.
        `teacher.fooled` (and `foreign.fooled`): share of the pictures decided right that were kept; `images`: how many.

    Raises:
        ConfigError: An option out of range.
        DataError: The attack fooled nobody.

    Reference:
        Ojha et al. 2023, arXiv 2205.16004; epsilon and step size are ours.
    """
    if not epsilon > 0 or steps < 1:
        raise ConfigError(f"epsilon is {epsilon}, it must be above 0; steps is {steps}, at least 1")
    pictures = draw(split, images=images, seed=seed)
    figures: Figures = {}
    for attacked, name in (("teacher", "fooling_rate"), ("foreign", "foreign_fooling_rate")):
        if attacked not in models and attacked != "teacher":
            continue
        before, after, share = _fooling(network_of(models, attacked), pictures, epsilon=epsilon, steps=steps)

        def measure(network: nn.Module, name: str = name, before: Tensor = before, after: Tensor = after) -> Figures:
            return {name: (decisions(network, before) != decisions(network, after)).double().mean().item()}

        figures |= by_role(models, measure) | prefixed(attacked, {"fooled": share})
        if attacked == "teacher":
            figures["images"] = float(len(before))
    return figures


def _fooling(network: nn.Module, pictures: Pictures, *, epsilon: float, steps: int) -> tuple[Tensor, Tensor, float]:
    inputs, labels = pictures.inputs, pictures.labels
    is_right = decisions(network, inputs) == labels
    inputs, labels = inputs[is_right], labels[is_right]
    if not len(labels):
        raise DataError("the attacked network decides no picture right, so none can fool it")
    attacked = iterative_fgsm(network, inputs, labels, epsilon=epsilon, steps=steps, step_size=2 * epsilon / steps)
    is_fooled = decisions(network, attacked) != labels
    if not bool(is_fooled.any()):
        raise DataError(f"no picture of {len(labels)} fooled the network within epsilon {epsilon}: raise epsilon")
    return inputs[is_fooled], attacked[is_fooled], is_fooled.double().mean().item()


PROBES.add(
    "adversarial",
    Probe(
        adversarial,
        title="How often a student's decision changes on pictures made to fool the teacher",
        reference="Ojha et al. 2023, arXiv 2205.16004; epsilon and step size are ours",
        chance="the independent student's rate; under an attack on a foreign network the gap should vanish",
        extreme={"fooling_rate": 1.0},
        uses=("independent", "foreign"),
    ),
)
