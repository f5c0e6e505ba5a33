"""Distillation losses as plain functions: tensors first, options by keyword, one value for each sample.

Every function returns `[B]` in float32 or wider, such that the mean over `[B]` is the loss as its paper defines it.
Gradients never reach the teacher's tensors. Here each loss is its textbook formula in PyTorch.
"""

from edgekd_kernels.gram import similarity_preserving
from edgekd_kernels.rowwise import kd_kl
from edgekd_kernels.spatial import hint_mse, vid

__all__ = ["hint_mse", "kd_kl", "similarity_preserving", "vid"]
