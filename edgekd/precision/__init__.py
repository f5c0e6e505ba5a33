"""Writes precision into the ONNX graph (typed FP16, explicit INT8 Q/DQ) and decides which precision is worth taking."""

from edgekd.precision.calibration import check_balance, check_calibration, drawn_calibration
from edgekd.precision.choice import Candidate, Decision, Verdict, choose_precision
from edgekd.precision.device_units import require_readable, require_units
from edgekd.precision.fake_quant import FakeQuantized, fake_quantized
from edgekd.precision.fp8 import to_fp8
from edgekd.precision.fp16 import kept_fp32, to_bf16, to_fp16
from edgekd.precision.int8 import Calibrated, calibrated, to_int8, write_int8
from edgekd.precision.layer_choice import Gains, LayerChoice, LayerRow, Mixture, choose_layers
from edgekd.precision.layer_gain import measured_gains, predicted_gains, predicted_mixture
from edgekd.precision.qat_export import int8_from_fake_quantized
from edgekd.precision.quant_report import QuantReport, quantized_ops
from edgekd.precision.ranges import CALIBRATORS, Calibrator

__all__ = [
    "CALIBRATORS",
    "Calibrated",
    "Calibrator",
    "Candidate",
    "Decision",
    "FakeQuantized",
    "Gains",
    "LayerChoice",
    "LayerRow",
    "Mixture",
    "QuantReport",
    "Verdict",
    "calibrated",
    "check_balance",
    "check_calibration",
    "choose_layers",
    "choose_precision",
    "drawn_calibration",
    "fake_quantized",
    "int8_from_fake_quantized",
    "kept_fp32",
    "measured_gains",
    "predicted_gains",
    "predicted_mixture",
    "quantized_ops",
    "require_readable",
    "require_units",
    "to_bf16",
    "to_fp16",
    "to_fp8",
    "to_int8",
    "write_int8",
]
