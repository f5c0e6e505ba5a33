"""The one place that imports `tuf`, on machines that may lack its network library.

`tuf.ngclient` imports urllib3 for its default fetcher, which a device never uses; JetPack brings none, or one that is
too old. A stand-in takes the place of that fetcher where the real one cannot be imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_FETCHER = "tuf.ngclient.urllib3_fetcher"


class _NoNetwork:
    """Stands in for the default fetcher."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("this device has no urllib3; metadata are read from a folder")


def _import_client() -> None:
    try:
        importlib.import_module("tuf.ngclient")
    except ImportError:
        stand_in = ModuleType(_FETCHER)
        stand_in.Urllib3Fetcher = _NoNetwork  # type: ignore[attr-defined]
        sys.modules[_FETCHER] = stand_in
        importlib.import_module("tuf.ngclient")


_import_client()

from tuf.api import exceptions  # noqa: E402
from tuf.api.metadata import Metadata, Root  # noqa: E402
from tuf.ngclient.config import UpdaterConfig  # noqa: E402
from tuf.ngclient.fetcher import FetcherInterface  # noqa: E402
from tuf.ngclient.updater import Updater  # noqa: E402

__all__ = ["FetcherInterface", "Metadata", "Root", "Updater", "UpdaterConfig", "exceptions"]
