"""What teacher outputs follow from, and the folder whose name is the digest of that: another teacher is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.core.atomic import write_json
from edgekd.core.digest import sha256_of_arrays, sha256_of_bytes, sha256_of_json
from edgekd.core.errors import StorageError
from edgekd.core.user_folder import user_folder
from edgekd.data import Augment, Dataset, SampleViews, view_batch
from edgekd.distill.net import TracedNet
from edgekd.distill.step import Step
from edgekd.distill.views import View

DOCUMENT = "key.json"
_PROBED_ROWS = 64


def cache_folder(setting: str) -> Path:
    """Return the folder of all caches that `train.teacher_cache` names; `auto` is one of the user's."""
    return user_folder() / "teacher-cache" if setting == "auto" else Path(setting).expanduser()


def facts_of(
    net: TracedNet,
    *,
    dataset: Dataset,
    augment: Augment,
    views: SampleViews,
    changes: Sequence[View] = (),
    precision: str = "no",
) -> dict[str, Any]:
    """Return everything that a network's outputs on views of a training split follow from, as plain data.

    Args:
        net: The network.
        dataset: The data.
        augment: The change of training batches. Its digest is over what it makes of some rows, so a change of its
            code is another one.
        views: What decides the change; the number of views is no part, for a view is the same among few and many.
        changes: What the stage makes of a batch after that.
        precision: Of forward passes.
    """
    probed = np.arange(min(_PROBED_ROWS, len(dataset.train)), dtype=np.int64)
    batch = view_batch(dataset.train, probed, augment, views, epoch=0)
    for change in changes:
        batch = change(batch, Step(0, 1, 0))
    return {
        "schema_version": 1,
        "teacher": digest_of(net.backbone),
        "resolution": net.resolution,
        "data": dataset.digest,
        "rows": len(dataset.train),
        "augmentation": type(augment).__name__,
        "transform": sha256_of_arrays({"inputs": batch.inputs.contiguous().numpy()}),
        "views_seed": views.seed,
        "precision": precision,
    }


def digest_of(module: nn.Module) -> str:
    """Return a digest of a network: its structure, weights and buffers, those outside its state among them."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return sha256_of_json([sha256_of_bytes(repr(module).encode()), sha256_of_arrays(dict(map(_as_bytes, named)))])


def opened(root: Path, facts: dict[str, Any]) -> Path:
    """Return the folder for outputs that follow from these facts, which are written into it where it is new.

    Raises:
        StorageError: What lies there says that it follows from others.
    """
    folder = root / sha256_of_json(facts)[:16]
    document = folder / DOCUMENT
    if not document.exists():
        write_json(document, facts)
        return folder
    try:
        found = json.loads(document.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{document} cannot be read: {error}; remove the folder") from error
    if found != facts:
        known = found if isinstance(found, dict) else {}
        other = ", ".join(sorted(name for name in facts if known.get(name) != facts[name]))
        raise StorageError(f"{folder} holds outputs of another {other}, not those its name says: remove the folder")
    return folder


def _as_bytes(named: tuple[str, Tensor]) -> tuple[str, Any]:
    name, value = named
    plain = value.detach().cpu().reshape(-1).contiguous()
    return f"{name} {value.dtype} {tuple(value.shape)}", plain.view(torch.uint8).numpy()
