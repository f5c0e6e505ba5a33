"""Whether teacher and student decide alike, right or wrong, on pictures that neither was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Split
from edgekd.distill.probes.answers import decisions
from edgekd.distill.probes.changes import edges, inverted, silhouettes
from edgekd.distill.probes.pictures import draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of

Domain: TypeAlias = Literal["as-is", "edges", "silhouettes", "inverted"]

_DOMAINS: Mapping[Domain, Callable[[Tensor], Tensor]] = {
    "as-is": lambda inputs: inputs,
    "edges": edges,
    "silhouettes": silhouettes,
    "inverted": inverted,
}


def consensus(
    models: Models,
    split: Split,
    *,
    domains: tuple[Domain, ...] = ("edges", "silhouettes", "inverted"),
    images: int = 5000,
    seed: int = 0,
) -> Figures:
    """Share of equal decisions of teacher and student on an unseen domain; labels take no part.

    Args:
        models: Roles `teacher`, `student`, and `independent` where given.
        split: Where pictures are drawn from.
        domains: What is made of them; `as-is` for pictures that are of another domain already.
        images: How many pictures at most.
        seed: Decides which.

    Returns:
        For each student the share by domain.

    Raises:
        ConfigError: No domain is given.

    Reference:
        Ojha et al. 2023, arXiv 2205.16004, with drawn domains; those made here from pictures are ours.
    """
    if not domains:
        raise ConfigError(f"domains is empty: give some of {', '.join(_DOMAINS)}")
    pictures = draw(split, images=images, seed=seed)
    teacher = network_of(models, "teacher")
    made = {domain: _DOMAINS[domain](pictures.inputs) for domain in domains}
    expected = {domain: decisions(teacher, inputs) for domain, inputs in made.items()}

    def measure(network: nn.Module) -> Figures:
        return {
            domain: (decisions(network, inputs) == expected[domain]).double().mean().item()
            for domain, inputs in made.items()
        }

    return by_role(models, measure)


PROBES.add(
    "consensus",
    Probe(
        consensus,
        title="Share of equal decisions of teacher and student on a domain that neither was trained on",
        reference="Ojha et al. 2023, arXiv 2205.16004; edges, silhouettes and negatives stand for its drawn domains",
        chance="the independent student's figures",
        extreme={"edges": 1.0, "silhouettes": 1.0, "inverted": 1.0},
        reads_labels=False,
    ),
)
