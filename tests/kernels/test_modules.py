"""Modules against the functions that they stand for, on the same tensors."""

import inspect
import pickle

import kernel_cases
import pytest
import torch
from edgekd_kernels import functional as K
from edgekd_kernels import modules

NO_LOSSES = {"bank_similarity", "crd_log_normaliser", "linear_cka", "relu_margin", "view_similarity"}
LEARNED = {
    "vid": lambda **options: modules.Vid(5, **options),
    "curriculum_kl": modules.CurriculumKl,
    "projected_mse": lambda **options: modules.ProjectedMse(
        student_channels=3, teacher_channels=5, **{**options, "bias": True}
    ),
}
UNCASED = {
    "fsp", "gaussian_kl", "gaussian_nll", "gradient_match", "hidden_relation", "modality_gram", "pixel_cross_entropy",
    "self_supervision", "similarity_transfer", "transformed_kd", "hint_mse_grouped",
}  # fmt: skip
LOSSES = sorted(set(K.__all__) - NO_LOSSES)


def _name(loss):
    return "".join(word.capitalize() for word in loss.split("_"))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_a_module_of_its_name(loss):
    face = getattr(modules, _name(loss))
    assert issubclass(face, torch.nn.Module) and face.__doc__ and face.__name__ == _name(loss)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - UNCASED - set(LEARNED)))
def test_modules_are_their_functions_reduced(loss):
    arguments = kernel_cases.cases(loss, "small")[0].arguments()
    needed = {name: value for name, value in arguments.items() if not isinstance(value, torch.Tensor)}
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    values = getattr(K, loss)(**arguments)
    for reduction, expected in (("mean", values.mean()), ("sum", values.sum()), ("none", values)):
        module = getattr(modules, _name(loss))(reduction=reduction, **needed)
        assert torch.equal(module(*tensors), expected)
        assert f"reduction={reduction!r}" in repr(module)
    assert not list(module.parameters())


def test_options_reach_the_function_and_others_are_refused():
    one, other = torch.randn(2, 4, 7)
    module = modules.KdKl(temperature=2.0, impl="torch")
    assert torch.equal(module(one, other), K.kd_kl(one, other, temperature=2.0).mean())
    assert repr(module) == "KdKl(temperature=2.0, impl='torch', reduction='mean')"
    with pytest.raises(TypeError, match="kd_kl has no option temprature; there are temperature"):
        modules.KdKl(temprature=2.0)
    with pytest.raises(TypeError, match="no option student_logits"):
        modules.KdKl(student_logits=one)
    with pytest.raises(TypeError, match="crd needs bank_size"):
        modules.Crd()
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'max'"):
        modules.KdKl(reduction="max")


def test_vid_learns_its_variances_towards_the_error():
    torch.manual_seed(0)
    module = modules.Vid(3, variance=4.0)
    mean, teacher = torch.zeros(8, 3, 4, 4), 0.1 * torch.randn(8, 3, 4, 4)
    assert torch.allclose(torch.nn.functional.softplus(module.raw_variance), torch.full((3,), 4.0))
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    before = module(mean, teacher)
    for _ in range(50):
        optimiser.zero_grad()
        module(mean, teacher).backward()
        optimiser.step()
    assert module(mean, teacher) < before and (torch.nn.functional.softplus(module.raw_variance) < 3.5).all()
    assert torch.equal(module(mean, teacher), K.vid(mean, teacher, module.raw_variance).mean())
    with pytest.raises(ValueError, match="variance must be positive, got 0"):
        modules.Vid(3, variance=0.0)


def test_the_curriculum_raises_the_loss_by_its_temperature_and_keeps_it_in_the_state():
    student, teacher = 4 * torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    module = modules.CurriculumKl(span=5.0)
    expected = K.curriculum_kl(student, teacher, torch.ones(()), gradient_scale=-1.0, span=5.0).mean()
    assert torch.equal(module(student, teacher), expected)
    module(student, teacher).backward()
    raised = modules.CurriculumKl(span=5.0)
    raised.load_state_dict({"raw_temperature": module.raw_temperature.detach() - 0.1 * module.raw_temperature.grad})
    assert raised(student, teacher) > module(student, teacher)


@pytest.mark.parametrize("has_bias", [False, True])
def test_projected_mse_is_a_convolution_and_the_hint_loss(has_bias):
    module = modules.ProjectedMse(student_channels=3, teacher_channels=5, bias=has_bias)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    projected = torch.nn.functional.conv2d(student, module.weight[..., None, None], module.bias)
    torch.testing.assert_close(module(student, teacher), K.hint_mse(projected, teacher).mean())
    module(student, teacher).backward()
    assert set(module.state_dict()) == ({"weight", "bias"} if has_bias else {"weight"})
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_projected_trains_its_convolution_and_the_student():
    module = modules.Projected(modules.HintMse(), student_channels=3, teacher_channels=5)
    student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, 4, 4)
    loss = module(student, teacher)
    assert torch.equal(loss, K.hint_mse(module.projection(student), teacher).mean())
    loss.backward()
    assert module.projection.weight.grad.abs().sum() > 0 and student.grad.abs().sum() > 0


def test_modules_can_be_copied_and_saved():
    module = pickle.loads(pickle.dumps(modules.KdKl(temperature=3.0)))
    one, other = torch.randn(2, 4, 7)
    assert torch.equal(module(one, other), K.kd_kl(one, other, temperature=3.0).mean())


@pytest.mark.parametrize("loss", sorted(LEARNED))
def test_learned_modules_take_the_functions_options(loss):
    keywords = [p for p in inspect.signature(getattr(K, loss)).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert LEARNED[loss](**{p.name: p.default for p in keywords if p.default is not p.empty})


def test_a_mask_that_goes_with_each_call_is_no_option():
    states, is_token = torch.randn(4, 2, 5, 3), torch.arange(5) < torch.tensor([[5], [2]])
    module = modules.HiddenRelation()
    assert torch.equal(module(*states, is_token=is_token), K.hidden_relation(*states, is_token=is_token).mean())
    with pytest.raises(TypeError, match="hidden_relation has no option is_token"):
        modules.HiddenRelation(is_token=is_token)
