"""Any network from its spec: of edgekd's families, of timm, of a Python file, or cut from one of these."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import StorageError
from edgekd.models import zoo
from edgekd.models.family import check_normalisation
from edgekd.models.layers import normalized
from edgekd.models.pythonfile import net_from_file
from edgekd.models.surgery import PRUNED, rebuilt
from edgekd.models.timmnet import net_from_timm


def build(spec: NetSpec) -> nn.Module:
    """Make a freshly initialised network, weights drawn from torch's global generator.

    A Python file and timm supply networks for normalised inputs; here they get their normalisation.

    Args:
        spec: Its architecture.

    Returns:
        `nn.Sequential` of `normalize` and `net`: float32 `[B, C, H, W]` in 0..1 to `[B, num_classes]`, or to
        `[B, num_classes, H, W]` where the family is dense; or of `net` alone: tokens int64 `[B, L]` to logits.

    Raises:
        ConfigError: The family is unknown, or cannot build this spec; its mean or deviation cannot be.
        PreconditionError: A package that the network needs is missing.
        StorageError: The Python file that makes it is missing or altered, or the spec of a pruned network is damaged.
    """
    if spec.family == PRUNED:
        return rebuilt(spec, build)
    if spec.family in ("timm", "python"):
        check_normalisation(spec)
    if spec.family == "timm":
        net = net_from_timm(spec.options["model"], in_channels=spec.in_channels, num_classes=spec.num_classes)
        return normalized(net, spec.mean, spec.std)
    if spec.family == "python":
        return normalized(_net_of_file(spec), spec.mean, spec.std)
    return zoo.build(spec)


def _net_of_file(spec: NetSpec) -> nn.Module:
    path = Path(spec.options["path"])
    if not path.is_file() or sha256_of_file(path) != spec.options["sha256"]:
        raise StorageError(f"{path}, which makes {spec.name}, is missing or was altered since")
    facts = {"in_channels": spec.in_channels, "num_classes": spec.num_classes, "resolution": spec.resolution}
    return net_from_file(path, spec.options["function"], facts)
