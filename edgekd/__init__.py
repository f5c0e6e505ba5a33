"""Distil a student network under a hardware latency budget, export it, prove it and ship it.

The packages and the direction of imports between them are described in CONTRIBUTING.md.
"""

__version__ = "0.1.0"
