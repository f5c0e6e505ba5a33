"""A NaN in the student is a NaN in the loss, never a quiet zero: training must see that it diverged."""

import inspect

import pytest
import torch
from edgekd_kernels import functional as K

B, CLASSES = 8, 5
MAP, ROW, ROWS = (B, 6, 4, 4), (B, CLASSES), (B, 3, 6)
LABELS = torch.arange(B) % CLASSES
EXTRA = {
    "dkd": {"labels": LABELS},
    "nkd": {"labels": LABELS},
    "kd_ce": {"labels": LABELS},
    "crd": {"log_normaliser": torch.tensor(1.0), "bank_size": 20},
    "transformed_kd": {"labels": LABELS},
    "vid": {"raw_variance": torch.ones(6)},
    "curriculum_kl": {"raw_temperature": torch.tensor(1.0), "gradient_scale": -1.0},
    "gaussian_nll": {"targets": torch.rand(B, 3)},
    "pixel_cross_entropy": {"labels": torch.arange(B * 16).reshape(B, 4, 4) % 6},
    "projected_match": {"projection": torch.rand(6, 6)},
    "projected_mse": {"weight": torch.rand(6, 6)},
    "hint_mse_grouped": {
        "student_last": torch.rand(MAP),
        "teacher_first": torch.rand(MAP),
        "teacher_last": torch.rand(MAP),
    },
    "partial_l2": {"margin": -torch.ones(6)},
    "fsp": {"student_last": torch.rand(MAP), "teacher_first": torch.rand(MAP), "teacher_last": torch.rand(MAP)},
    "hidden_relation": {"is_token": torch.ones(B, 3, dtype=torch.bool)},
}
GAUSSIAN = {"gaussian_nll", "gaussian_kl"}
ROWWISE = {
    "dkd", "nkd", "kd_kl", "kd_ce", "standardized_kl", "dist", "mlkd", "curriculum_kl", "batch_correlation",
    "class_correlation", "transformed_kd", "similarity_transfer", "info_nce", "self_supervision", "branch_kl", "crd",
}  # fmt: skip
SEQUENCES = {"gradient_match", "hidden_relation", "modality_gram"}
NO_LOSSES = {"bank_similarity", "crd_log_normaliser", "linear_cka", "relu_margin", "view_similarity"}


def _grouped(student_first, student_last, teacher_first, teacher_last):
    return K.hint_mse_grouped((student_first, student_last), (teacher_first, teacher_last))


def _tensors(name):
    function = _grouped if name == "hint_mse_grouped" else getattr(K, name)
    shape = ROW if name in ROWWISE else ROWS if name in SEQUENCES else MAP
    shape = (B, 6) if name in GAUSSIAN else shape
    torch.manual_seed(0)
    first = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and parameter.name not in EXTRA.get(name, {})
    ]
    return function, {each: torch.rand(shape) for each in first} | EXTRA.get(name, {}), first[0]


@pytest.mark.parametrize("name", sorted(set(K.__all__) - NO_LOSSES))
def test_nan_in_the_student_is_nan_in_the_loss(name):
    function, tensors, student = _tensors(name)
    assert torch.isfinite(function(**tensors)).all()
    poisoned = tensors[student].clone()
    poisoned.view(-1)[7] = float("nan")
    assert torch.isnan(function(**{**tensors, student: poisoned}).mean())
