"""Gradients of every loss against finite differences in float64; none for the teacher, finite ones at awkward points.

The values are held against numpy elsewhere, loss by loss; here a new loss is found by its name in `functional`.
"""

import inspect

import pytest
import torch
from edgekd_kernels import functional as K
from torch._subclasses.fake_tensor import FakeTensorMode

NOT_LOSSES = {"crd_log_normaliser", "linear_cka", "relu_margin", "view_similarity"}
UNTAUGHT = {"bank", "labels", "margin", "projection", "targets"}
LEARNED_TEACHER_SIDE = {("info_nce", "teacher_embedding")}
REVERSED = {("curriculum_kl", "raw_temperature")}
IS_TOKEN = torch.arange(5) < torch.tensor([[5], [1], [3], [0]])
OPTIONS = {
    "bank_similarity": {"rows": torch.tensor([[0, 3], [1, 0], [2, 2], [5, 4], [4, 1], [3, 0]])},
    "crd": {"log_normaliser": torch.tensor(2.0), "bank_size": 20},
    "curriculum_kl": {"gradient_scale": -1.0},
    "hidden_relation": {"is_token": IS_TOKEN},
}
SHAPES = {
    "logits": (8, 5),
    "map": (4, 3, 4, 4),
    "mean": (4, 3, 4, 4),
    "first": (4, 3, 4, 4),
    "last": (4, 2, 4, 4),
    "factor": (4, 3, 4, 4),
    "feature": (6, 5),
    "embedding": (6, 5),
    "embeddings": (4, 3, 5),
    "projections": (8, 5),
    "variance": (3,),
    "margin": (3,),
    "temperature": (),
    "outputs": (6, 4),
    "targets": (6, 2),
    "states": (4, 5, 3),
    "gradient": (4, 5, 3),
    "similarity": (4, 6),
    "bank": (6, 5),
    "projection": (3, 3),
    "weight": (3, 3),
}


def _grouped(student_first, student_last, teacher_first, teacher_last):
    return K.hint_mse_grouped((student_first, student_last), (teacher_first, teacher_last), weights=(1.0, 0.5))


FUNCTIONS = {"hint_mse_grouped": _grouped}
LOSSES = sorted(set(K.__all__) - NOT_LOSSES)


def _function(name):
    return FUNCTIONS.get(name) or getattr(K, name)


def _arguments(name, generator):
    tensors = {}
    for parameter in inspect.signature(_function(name)).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY or parameter.name in OPTIONS.get(name, {}):
            continue
        if parameter.name == "labels":
            is_dense = name == "pixel_cross_entropy"
            tensors["labels"] = torch.arange(64).reshape(4, 4, 4) % 3 if is_dense else torch.arange(8) % 5
        else:
            shape = SHAPES[parameter.name.rpartition("_")[2]]
            tensors[parameter.name] = torch.randn(shape, dtype=torch.float64, generator=generator)
    return tensors


def _is_taught(name, parameter):
    is_teachers = parameter.startswith("teacher_") or parameter in UNTAUGHT
    return not is_teachers or (name, parameter) in LEARNED_TEACHER_SIDE


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name, seed):
    tensors = _arguments(name, torch.Generator().manual_seed(seed))
    taught = [key for key in tensors if _is_taught(name, key) and (name, key) not in REVERSED]
    fixed = {key: value for key, value in tensors.items() if key not in taught}

    def loss(*values):
        return _function(name)(**fixed, **dict(zip(taught, values, strict=True)), **OPTIONS.get(name, {}))

    assert taught
    assert torch.autograd.gradcheck(loss, [tensors[key].requires_grad_() for key in taught])


@pytest.mark.parametrize("name", LOSSES)
def test_the_teacher_gets_no_gradient(name):
    tensors = _arguments(name, torch.Generator().manual_seed(0))
    for key, value in tensors.items():
        if key != "labels":
            value.requires_grad_()
    _function(name)(**tensors, **OPTIONS.get(name, {})).mean().backward()
    for key, value in tensors.items():
        if key in UNTAUGHT - {"bank", "projection"}:
            continue
        has_gradient = value.grad is not None and bool(value.grad.abs().sum() > 0)
        assert has_gradient == _is_taught(name, key), key


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_stay_finite_on_zeros_and_on_large_values(name):
    for scale in (0.0, 1e4):
        tensors = _arguments(name, torch.Generator().manual_seed(1))
        taught = [key for key in tensors if _is_taught(name, key)]
        scaled = {
            key: (value * scale if value.ndim > 1 and key != "labels" else value).to(
                torch.int64 if key == "labels" else torch.float32
            )
            for key, value in tensors.items()
        }
        for key in taught:
            scaled[key].requires_grad_()
        values = _function(name)(**scaled, **OPTIONS.get(name, {}))
        values.mean().backward()
        assert torch.isfinite(values).all(), scale
        assert all(torch.isfinite(scaled[key].grad).all() for key in taught), scale


FUSED = [name for name in LOSSES if "impl" in inspect.signature(getattr(K, name)).parameters]


@pytest.mark.parametrize("name", FUSED)
def test_a_gradient_of_a_fused_loss_cannot_be_differentiated_in_silence(name):
    tensors = _arguments(name, torch.Generator().manual_seed(0))
    student = next(iter(tensors.values())).requires_grad_()
    values = _function(name)(**tensors, **OPTIONS.get(name, {}))
    (gradient,) = torch.autograd.grad(values.sum(), student, create_graph=True)
    with pytest.raises(RuntimeError, match="has first derivatives only"):
        torch.autograd.grad(gradient.square().sum(), student, retain_graph=True, allow_unused=True)
    with pytest.raises(RuntimeError, match="has first derivatives only"):
        (values.sum() + gradient.square().sum()).backward()


@pytest.mark.parametrize("name", LOSSES)
def test_fake_tensors_have_the_shapes_of_real_ones(name):
    arguments = {**_arguments(name, torch.Generator().manual_seed(0)), **OPTIONS.get(name, {})}
    expected = _function(name)(**arguments)
    with FakeTensorMode() as mode:
        fakes = {key: mode.from_tensor(each) if torch.is_tensor(each) else each for key, each in arguments.items()}
        (first, *_) = fakes.values()
        values = _function(name)(**{**fakes, next(iter(fakes)): first.requires_grad_()})
        values.sum().backward()
    assert (values.shape, values.dtype) == (expected.shape, expected.dtype)
    assert first.grad.shape == first.shape
