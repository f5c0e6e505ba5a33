"""Probes: what a student took over from its teacher, always next to a student that had none.

A probe takes networks by role (`teacher`, `student`, `independent`) and a split, and returns a flat dictionary of
figures. Importing this package registers the built-in ones in `PROBES`.
"""

from edgekd.distill.probes.adversarial import adversarial, iterative_fgsm
from edgekd.distill.probes.between import between_points_kl
from edgekd.distill.probes.boundary import boundary, label_map_iou, plane_through
from edgekd.distill.probes.channels import channels, matching_channels, top_channel_overlap
from edgekd.distill.probes.complexity import adjusted_complexity, complexity, tangent_kernel
from edgekd.distill.probes.consensus import consensus
from edgekd.distill.probes.degradation import degradation, degraded
from edgekd.distill.probes.errors import error_overlap_of, errors
from edgekd.distill.probes.fidelity import Ensemble, ensemble_logits, fidelity
from edgekd.distill.probes.interpolation import interpolated, with_new_statistics
from edgekd.distill.probes.invariance import invariance
from edgekd.distill.probes.localisation import grad_cam, localisation, win_rate
from edgekd.distill.probes.probe import PROBES, ROLES, Figures, Models, Probe, SplitName
from edgekd.distill.probes.quality import calibration, expected_calibration_error, macro_f1, predictive_entropy
from edgekd.distill.probes.similarity import cka, rbf_cka

__all__ = [
    "PROBES",
    "ROLES",
    "Ensemble",
    "Figures",
    "Models",
    "Probe",
    "SplitName",
    "adjusted_complexity",
    "adversarial",
    "between_points_kl",
    "boundary",
    "calibration",
    "channels",
    "cka",
    "complexity",
    "consensus",
    "degradation",
    "degraded",
    "ensemble_logits",
    "error_overlap_of",
    "errors",
    "expected_calibration_error",
    "fidelity",
    "grad_cam",
    "interpolated",
    "invariance",
    "iterative_fgsm",
    "label_map_iou",
    "localisation",
    "macro_f1",
    "matching_channels",
    "plane_through",
    "predictive_entropy",
    "rbf_cka",
    "tangent_kernel",
    "top_channel_overlap",
    "win_rate",
    "with_new_statistics",
]
