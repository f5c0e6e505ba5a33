"""Distillation losses on raw student and teacher tensors, usable without edgekd.

The public functions are in `edgekd_kernels.functional`.
"""
