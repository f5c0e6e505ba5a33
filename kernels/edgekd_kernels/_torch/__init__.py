"""Losses in torch operations, their gradients written out."""
