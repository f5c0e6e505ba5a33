"""Graph to fused layers to predicted milliseconds with an interval; nothing here is ever a measurement."""

from edgekd.latency.cpu_model import CpuModel, CpuPoint, calibrate_cpu, refit_cpu
from edgekd.latency.fusion import graph_from_onnx
from edgekd.latency.kernel_model import Hardware, KernelParameters, KernelTimes, kernel_times
from edgekd.latency.launch_floor import launch_floor_ms, require_above_launch_floor
from edgekd.latency.layer_tables import graphs_from_csv
from edgekd.latency.layers import KINDS, Layer, LayerGraph, LayerKind, with_batch
from edgekd.latency.many import CandidateTimes, predict_columns
from edgekd.latency.parameters import ParameterFile, load_parameters, parameters_for, predictable_precisions
from edgekd.latency.predict import LayerTime, explain, predict, predict_many
from edgekd.latency.template import GraphTemplate

__all__ = [
    "KINDS",
    "CpuModel",
    "CpuPoint",
    "CandidateTimes",
    "GraphTemplate",
    "Hardware",
    "KernelParameters",
    "KernelTimes",
    "Layer",
    "LayerGraph",
    "LayerKind",
    "LayerTime",
    "ParameterFile",
    "calibrate_cpu",
    "explain",
    "graph_from_onnx",
    "graphs_from_csv",
    "kernel_times",
    "launch_floor_ms",
    "load_parameters",
    "parameters_for",
    "predict",
    "predict_columns",
    "predictable_precisions",
    "predict_many",
    "refit_cpu",
    "require_above_launch_floor",
    "with_batch",
]
