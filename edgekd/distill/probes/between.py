"""How well a student follows its teacher between data points, where no label ever was."""

from __future__ import annotations

from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import Split
from edgekd.distill.evaluation import fidelity_of
from edgekd.distill.mixing import mixes_of
from edgekd.distill.probes.answers import logits_on
from edgekd.distill.probes.pictures import chance_of, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of


def between_points_kl(
    models: Models, split: Split, *, images: int = 1000, alpha: float = 1.0, seed: int = 0
) -> Figures:
    """Compare students with the teacher on convex mixes of pairs of pictures.

    Args:
        models: Roles `teacher`, `student`, and `independent` where given.
        split: Where pictures are drawn from.
        images: How many pictures at most, and how many mixes of them.
        alpha: Shares are drawn from Beta(alpha, alpha); 1 is uniform.
        seed: Decides pictures and mixes, the same for every network.

    Returns:
        For each student `kl`, mean KL(teacher || student) at temperature 1 on the mixes, and `agreement` there.

    Raises:
        ConfigError: An option out of range.

    Reference:
        Pouransari et al. 2021, arXiv 2007.00051, for the question; the mixes are a reconstruction.
    """
    if not alpha > 0:
        raise ConfigError(f"alpha is {alpha}, it must be positive")
    pictures = draw(split, images=images, seed=seed)
    mixes = mixes_of(pictures.inputs, len(pictures), alpha=alpha, rng=chance_of(seed, "between"))
    expected = logits_on(network_of(models, "teacher"), mixes)

    def measure(network: nn.Module) -> Figures:
        return fidelity_of(logits_on(network, mixes), expected, split.task)

    return by_role(models, measure)


PROBES.add(
    "between-points-kl",
    Probe(
        between_points_kl,
        title="KL to the teacher and agreement with it on mixes of pictures",
        reference="Pouransari et al. 2021, arXiv 2007.00051 (a reconstruction)",
        chance="the independent student's figures",
        extreme={"agreement": 1.0, "kl": 0.0},
        reads_labels=False,
    ),
)
