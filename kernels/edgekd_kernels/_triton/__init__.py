"""Losses as Triton kernels; importing a module here needs Triton."""
