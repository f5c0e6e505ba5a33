"""Finding the Parquet files of a data set on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from edgekd.core.errors import ConfigError, DataError, PreconditionError, missing_package

PREFIX = "hf:"
"""What a path begins with that names a data set on the hub: `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`."""

_CONVERTED = "refs/convert/parquet"


def hub_folder(path: str) -> Path:
    """Download the Parquet files of a data set into the hub's own cache and return their folder.

    Where the repository holds none, those that the hub makes of it are taken.

    Args:
        path: `hf:OWNER/NAME`, with `@REVISION` to stay with one.

    Raises:
        ConfigError: That is no such name.
        DataError: The data set has no Parquet files.
        PreconditionError: The hub cannot be reached, or huggingface_hub is not installed.
    """
    name, _, revision = path.removeprefix(PREFIX).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ConfigError(f"{path}: a data set on the hub is named hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    for wanted in [revision] if revision else [None, _CONVERTED]:
        folder = snapshot(name, wanted)
        if any(folder.rglob("*.parquet")):
            return folder
    raise DataError(f"{path}: has no Parquet files, and the hub has made none of it; give the folder of a copy")


def snapshot(name: str, revision: str | None) -> Path:
    """Download the Parquet files of one revision; see `hub_folder` for the errors."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_package("huggingface_hub", "parquet", "fetching a data set from the hub") from error
    try:
        return Path(
            snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=["*.parquet", "**/*.parquet"]
            )
        )
    except Exception as error:  # The hub's client raises its own, its transport's and the system's.
        reason = " ".join(str(error).split())[:200]
        raise PreconditionError(
            f"hf:{name} could not be fetched ({type(error).__name__}: {reason}); "
            "check the name and the network, or give the folder of a copy"
        ) from error
