"""A data set as named on the command line: a registered name, or a YAML file for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekd.data import Dataset


def dataset_from_choice(choice: str) -> Dataset:
    """Load a data set.

    Args:
        choice: `"digits"` or another registered name; or a YAML file with the keys of `DataConfig`, at its top or below
            `data` as in the configuration of a run.

    Returns:
        The data set.

    Raises:
        ConfigError: Unknown name, unknown key, missing file.
        DataError: The data are unusable.
    """
    from edgekd.core.config import read_yaml, validated
    from edgekd.data import DataConfig, load_dataset

    if Path(choice).suffix not in (".yaml", ".yml"):
        return load_dataset(DataConfig(name=choice))
    document = read_yaml(Path(choice))
    return load_dataset(validated(DataConfig, document.get("data", document), choice))
