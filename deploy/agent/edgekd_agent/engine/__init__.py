"""Engines on the device: which one it needs, building it, checking it, running it.

Only the modules that run an engine import numpy and ONNX Runtime or TensorRT, and only when they are called; the rest
needs the standard library alone.
"""
