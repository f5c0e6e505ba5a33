"""The students a run may choose from, made from what the user allows, what the task needs and what the teacher is."""

from __future__ import annotations

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.data import Dataset
from edgekd.models import FAMILIES, PRUNED, Family, takes_reduction
from edgekd.pipeline.search_config import SpaceConfig
from edgekd.search import Dimension, FamilySpace, SearchSpace

_PRUNABLE_ALONE = ("towers",)  # special forms of input: they are searched when they are asked for


def space_for(config: SpaceConfig, dataset: Dataset, teacher: NetSpec) -> SearchSpace:
    """Return the space of a search.

    Args:
        config: What the user allows.
        dataset: What the students are for.
        teacher: What pruned students are cut from.

    Raises:
        ConfigError: An unknown family, one that does not fit the task, sizes for a family that is not searched, or
            nothing to choose from.
    """
    names = config.families or (*_fitting(dataset), PRUNED)
    for name in names:
        if name != PRUNED and name not in FAMILIES:
            raise unknown_name("network family", name, [*FAMILIES, PRUNED])
        if name != PRUNED and not _fits(FAMILIES[name], dataset):
            raise ConfigError(
                f"students of family {name} do not fit {dataset.task.kind} of {_kind_of(dataset)}; these do: "
                f"{', '.join([*_fitting(dataset), PRUNED])}"
            )
    if strange := sorted({*config.depths, *config.widths} - {*names}):
        raise ConfigError(f"search.space gives sizes of {', '.join(strange)}, which is not among {', '.join(names)}")
    families = tuple(
        _pruned(config) if name == PRUNED else _members(name, config, dataset) for name in dict.fromkeys(names)
    )
    facts = {"data": dataset.digest, "teacher": teacher.digest if PRUNED in names else None}
    return SearchSpace(families, facts)


def _fitting(dataset: Dataset) -> list[str]:
    return [name for name in FAMILIES if name not in _PRUNABLE_ALONE and _fits(FAMILIES[name], dataset)]


def _fits(family: Family, dataset: Dataset) -> bool:
    is_text = bool(dataset.vocabulary)
    return family.is_dense == dataset.task.is_dense and (family.takes == "tokens") == is_text


def _kind_of(dataset: Dataset) -> str:
    return "texts" if dataset.vocabulary else "pictures"


def _members(name: str, config: SpaceConfig, dataset: Dataset) -> FamilySpace:
    family = FAMILIES[name]
    depths = tuple(sorted(set(config.depths.get(name, family.depths))))
    wrong = [depth for depth in depths if not family.has_depth(depth)]
    if wrong:
        raise ConfigError(f"search.space.depths.{name}: {wrong[0]} is not {family.depth_rule}")
    dimensions = [
        Dimension("depth", depths),
        Dimension("width", tuple(sorted(set(config.widths.get(name, family.widths))))),
    ]
    if "kernel" in family.options:
        allowed = {int(value) for value in family.options["kernel"]}
        dimensions.append(Dimension("kernel", tuple(str(one) for one in sorted(allowed & set(config.kernels)))))
    if takes_reduction(family):
        fitting = [one for one in set(config.reduces) if _can_reduce(dataset.resolution, one)]
        dimensions.append(Dimension("reduce", tuple(str(one) for one in sorted(fitting, reverse=True))))
    return FamilySpace(name, tuple(dimensions))


def _can_reduce(resolution: int, by: int) -> bool:
    return by == 1 or (by in (2, 4) and resolution % by == 0 and resolution // by >= 8)


def _pruned(config: SpaceConfig) -> FamilySpace:
    return FamilySpace(
        PRUNED,
        (
            Dimension("keep", tuple(sorted(set(config.keeps)))),
            Dimension("ranking", config.rankings, is_ordered=False),
        ),
    )
