"""Losses as CUDA C++ kernels, compiled for the GPU at hand when they first run; importing this needs no CUDA."""
