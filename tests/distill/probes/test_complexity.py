"""Closed forms of the adjusted complexity; the kernel against algebra and finite differences."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from edgekd.core.errors import ConfigError, DataError
from edgekd.distill.probes import adjusted_complexity, complexity, tangent_kernel


@pytest.fixture
def kernel():
    root = np.random.default_rng(0).normal(size=(12, 12))
    return torch.from_numpy(root @ root.T + 0.1 * np.eye(12))


@pytest.fixture
def targets():
    return torch.from_numpy(np.random.default_rng(1).normal(size=(12, 3)))


def test_it_equals_the_formula(kernel, targets):
    inverse = np.linalg.inv(kernel.numpy())
    expected = [np.sqrt(y @ inverse @ y * np.trace(kernel.numpy())) / 12 for y in targets.numpy().T]
    assert adjusted_complexity(kernel, targets).tolist() == pytest.approx(expected, rel=1e-9)


def test_it_is_invariant_to_the_scale_of_the_kernel(kernel, targets):
    one, other = (adjusted_complexity(scale * kernel, targets, epsilon=1e-3) for scale in (1.0, 37.0))
    assert one.tolist() == pytest.approx(other.tolist())


def test_it_scales_with_the_targets(kernel, targets):
    assert (adjusted_complexity(kernel, -4 * targets)).tolist() == pytest.approx(
        (4 * adjusted_complexity(kernel, targets)).tolist()
    )


def test_the_identity_gives_the_norm_over_root_n(targets):
    found = adjusted_complexity(torch.eye(12, dtype=torch.float64), targets)
    assert found.tolist() == pytest.approx((np.linalg.norm(targets.numpy(), axis=0) / np.sqrt(12)).tolist())


def test_jitter_is_a_share_of_the_mean_of_the_diagonal(kernel, targets):
    added = kernel + 0.2 * kernel.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    inverse = np.linalg.inv(added.numpy())
    expected = [np.sqrt(y @ inverse @ y * np.trace(kernel.numpy())) / 12 for y in targets.numpy().T]
    assert adjusted_complexity(kernel, targets, epsilon=0.2).tolist() == pytest.approx(expected, rel=1e-9)


def test_top_eigenvectors_are_simpler_than_bottom_ones(kernel):
    vectors = torch.linalg.eigh(kernel).eigenvectors
    found = adjusted_complexity(kernel, vectors)
    assert bool((found.diff() < 0).all())


def test_smooth_targets_are_simpler_than_signs_and_these_than_shuffled_signs():
    points = np.linspace(-3, 3, 40)
    kernel = torch.from_numpy(np.exp(-0.5 * (points[:, None] - points) ** 2 / 0.3**2))
    smooth = np.sin(points)
    signs = np.sign(smooth)
    shuffled = np.random.default_rng(0).permutation(signs)
    found = adjusted_complexity(kernel, torch.from_numpy(np.stack([smooth, signs, shuffled], axis=1)), epsilon=1e-6)
    assert found[0] < found[1] < found[2]


def test_a_singular_kernel_is_an_error(targets):
    with pytest.raises(DataError, match="singular at jitter 0"):
        adjusted_complexity(torch.zeros(12, 12, dtype=torch.float64), targets)


def test_the_kernel_of_a_linear_model_is_that_of_its_inputs():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    inputs = torch.rand(7, 1, 4, 4)
    rows = inputs.flatten(1).double()
    assert torch.allclose(tangent_kernel(model, inputs, output=1), rows @ rows.T)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    assert torch.allclose(tangent_kernel(model, inputs, output=1), rows @ rows.T + 1)


def test_the_kernel_equals_finite_differences():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    network[1].running_mean.uniform_(-0.5, 0.5)
    network[1].running_var.uniform_(0.5, 2)
    inputs = torch.rand(5, 1, 4, 4)
    found = tangent_kernel(network, inputs, output=2)
    network.eval()
    columns = []
    with torch.no_grad():
        for parameter in network.parameters():
            for index in range(parameter.numel()):
                values = []
                for step in (1e-6, -2e-6):
                    parameter.view(-1)[index] += step
                    values.append(network(inputs.double())[:, 2].clone())
                parameter.view(-1)[index] += 1e-6
                columns.append((values[0] - values[1]) / 2e-6)
    jacobian = torch.stack(columns, dim=1)
    assert torch.allclose(found, jacobian @ jacobian.T, rtol=1e-6, atol=1e-8)


def _by_hand(network, weights, inputs, labels, temperature):
    rows = inputs.flatten(1).double().numpy()
    start = network(inputs).detach().double().numpy()
    teacher = rows @ weights.T
    kernel = rows @ rows.T + 1
    inverse = np.linalg.inv(kernel + 1e-6 * np.trace(kernel) / len(rows) * np.eye(len(rows)))
    found = {}
    for name, target in (("labels", np.eye(4)[labels]), ("teacher", softmax(teacher / temperature, axis=1))):
        residuals = (target - start).T
        found[name] = np.mean([np.sqrt(y @ inverse @ y * np.trace(kernel)) / len(rows) for y in residuals])
    return found, kernel


def test_figures_equal_numpy_on_a_linear_student(split, pixels_of):
    torch.manual_seed(1)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for _ in range(2))
    with torch.no_grad():
        teacher[1].bias.zero_()
    figures = complexity(
        {"teacher": teacher, "student": teacher, "start": student}, split, temperatures=(2.0,), images=60
    )
    weights = teacher[1].weight.detach().double().numpy()
    expected, kernel = _by_hand(student, weights, pixels_of(split), split.labels, 2.0)
    assert figures["labels"] == pytest.approx(expected["labels"], rel=1e-3)
    assert figures["teacher_T2"] == pytest.approx(expected["teacher"], rel=1e-3)
    assert figures["jitter"] == pytest.approx(1e-6 * np.trace(kernel) / 60, rel=1e-6)
    assert figures["least_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(kernel)[0], rel=1e-4)


def test_the_kernel_is_the_students_at_the_start_unless_asked_otherwise(models, split):
    start = complexity(models, split, images=20)
    assert start == complexity({**models, "student": models["another"]}, split, images=20)
    assert start != complexity({**models, "start": models["another"]}, split, images=20)
    trained = complexity(models, split, images=20, kernel="trained")
    as_start = complexity({**models, "start": models["student"]}, split, images=20)
    assert {name: trained[name] for name in as_start} == as_start
    with pytest.raises(ConfigError, match="needs the role 'start'"):
        complexity({"teacher": models["teacher"], "student": models["student"]}, split)


def test_random_labels_are_harder_than_labels_and_high_temperatures_easier(models, dataset):
    figures = complexity(models, dataset.train, images=100)
    assert figures["random_labels"] > 1.2 * figures["labels"]
    assert figures["teacher_T4"] < figures["teacher_T1"] < figures["random_labels"]


def test_more_images_than_parameters_are_refused(split):
    tiny = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="rank at most 20"):
        complexity({"teacher": tiny, "student": tiny, "start": tiny}, split, images=60)


def test_a_kernel_beyond_memory_is_refused():
    with torch.device("meta"):
        huge = nn.Sequential(nn.Flatten(), nn.Linear(10_000, 10_000))
    with pytest.raises(ConfigError, match="lower images"):
        tangent_kernel(_NotCopied(huge), torch.zeros(3, 1, 100, 100), output=0)


class _NotCopied(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __deepcopy__(self, memo):
        return self

    def cpu(self):
        return self

    def double(self):
        return self
