"""Losses against labels of pixels and against real values, and the distance between answers of the latter kind."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened

_LARGEST_LOG_VARIANCE = 30.0


def pixel_cross_entropy(logit_map: Tensor, labels: Tensor, *, ignored: int = 255) -> Tensor:
    """Cross-entropy of each pixel, such that the mean over `[B]` is the mean over all pixels that count.

    Args:
        logit_map: `[B, K, H, W]`.
        labels: int64 `[B, H, W]` in `0..K-1`, or `ignored`.
        ignored: The label of pixels that do not count.

    Returns:
        `[B]`; an image without a pixel that counts is 0, and so is everything when there is none at all.

    Raises:
        ValueError: Shapes do not fit.
    """
    if logit_map.dim() != 4 or labels.shape != (len(logit_map), *logit_map.shape[2:]):
        raise ValueError(
            f"logits {tuple(logit_map.shape)} and labels {tuple(labels.shape)}, expected [B, K, H, W], [B, H, W]"
        )
    values = F.cross_entropy(widened(logit_map), labels, reduction="none", ignore_index=ignored)
    counted = (labels != ignored).sum().clamp(min=1).to(values.dtype)
    return values.sum(dim=(1, 2)) * (len(logit_map) / counted)


def gaussian_nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood under Gaussians, `sum over D of ((y - mu)^2 / s^2 + log s^2) / 2`.

    The constant `log(2 pi) / 2` of each target is left out, and log variances are held within -30..30, so that an
    outlier cannot overflow.

    Args:
        outputs: `[B, 2 D]`: means `mu`, then log variances `log s^2`.
        targets: `y`, `[B, D]`.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes do not fit.

    Reference:
        arXiv 2007.00051, reconstruction.
    """
    means, log_variances = _gaussian(outputs)
    require_same_shape(means, targets)
    return ((widened(targets) - means).square() * (-log_variances).exp() + log_variances).sum(dim=1) / 2


def gaussian_kl(student_outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """KL(teacher || student) of Gaussians.

    `sum over D of log(s_s / s_t) + (s_t^2 + (mu_t - mu_s)^2) / (2 s_s^2) - 1/2`, log variances held within -30..30.

    Args:
        student_outputs: `[B, 2 D]`: means `mu_s`, then log variances `log s_s^2`.
        teacher_outputs: The same of the teacher; no gradient reaches it.

    Returns:
        `[B]`.

    Raises:
        ValueError: Shapes do not fit.

    Reference:
        arXiv 2007.00051, reconstruction.
    """
    require_same_shape(student_outputs, teacher_outputs)
    mine, my_log_variances = _gaussian(student_outputs)
    theirs, their_log_variances = _gaussian(teacher_outputs.detach())
    log_ratio = their_log_variances - my_log_variances
    distance = (theirs - mine).square() * (-my_log_variances).exp()
    return (log_ratio.exp() - log_ratio + distance - 1).sum(dim=1) / 2


def _gaussian(outputs: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.dim() != 2 or outputs.shape[1] % 2:
        raise ValueError(f"outputs have shape {tuple(outputs.shape)}, expected means and log variances [B, 2 D]")
    means, log_variances = widened(outputs).chunk(2, dim=1)
    return means, log_variances.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
