"""Distillation losses as plain functions: tensors first, options by keyword, one value for each sample.

Every function returns `[B]` in float32 or wider, such that the mean over `[B]` is the loss as its paper defines it.
Gradients never reach the teacher's tensors, but do reach embeddings of them by a learned head (`info_nce`), and both
sides where a network is compared with its own branch (`branch_kl`). Losses that take `impl` are fused, with their
gradients written out; the others are textbook formulas left to autograd.
"""

from edgekd_kernels.activation import activation_boundary, partial_l2, relu_margin
from edgekd_kernels.channelwise import pkd, vid
from edgekd_kernels.contrastive import bank_similarity, crd, crd_log_normaliser, info_nce
from edgekd_kernels.correlation import batch_correlation, class_correlation, dist, mlkd
from edgekd_kernels.curriculum import curriculum_kl
from edgekd_kernels.differences import hint_mse, hint_mse_grouped, mgd
from edgekd_kernels.gradient import gradient_match
from edgekd_kernels.gram import (
    cka_dissimilarity,
    correlation_congruence,
    linear_cka,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from edgekd_kernels.pooled import pooled_mse
from edgekd_kernels.projection import projected_match, projected_mse
from edgekd_kernels.rowwise import branch_kl, cwd, dkd, kd_ce, kd_kl, nkd
from edgekd_kernels.sample_gram import fsp, modality_gram
from edgekd_kernels.selfsupervised import self_supervision, similarity_transfer, transformed_kd, view_similarity
from edgekd_kernels.spatial import attention_transfer, factor_transfer, hint_l2, nst
from edgekd_kernels.standard import standardized_kl
from edgekd_kernels.supervised import gaussian_kl, gaussian_nll, pixel_cross_entropy
from edgekd_kernels.tokens import hidden_relation

__all__ = [
    "attention_transfer",
    "bank_similarity",
    "cka_dissimilarity",
    "correlation_congruence",
    "crd",
    "crd_log_normaliser",
    "batch_correlation",
    "branch_kl",
    "class_correlation",
    "curriculum_kl",
    "cwd",
    "dist",
    "dkd",
    "fsp",
    "factor_transfer",
    "gaussian_kl",
    "gaussian_nll",
    "hidden_relation",
    "gradient_match",
    "hint_l2",
    "hint_mse",
    "hint_mse_grouped",
    "info_nce",
    "kd_ce",
    "kd_kl",
    "linear_cka",
    "activation_boundary",
    "nst",
    "partial_l2",
    "relu_margin",
    "mgd",
    "modality_gram",
    "mlkd",
    "nkd",
    "pixel_cross_entropy",
    "pkd",
    "pkt",
    "pooled_mse",
    "projected_match",
    "projected_mse",
    "rkd_angle",
    "rkd_distance",
    "self_supervision",
    "similarity_preserving",
    "similarity_transfer",
    "standardized_kl",
    "transformed_kd",
    "vid",
    "view_similarity",
]
