"""The attack against its closed form on a linear classifier, and the fooling rate by counting."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from edgekd.core.errors import DataError
from edgekd.distill.probes import adversarial, iterative_fgsm


def _linear(seed, scale=1.0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.normal_(network[1].weight, std=scale)
    return network.eval()


def _attacked(weight, bias, inputs, labels, epsilon, steps, step_size):
    start = inputs.reshape(len(inputs), -1).astype(np.float64)
    now = start.copy()
    for _ in range(steps):
        gradient = (softmax(now @ weight.T + bias, axis=1) - np.eye(4)[labels]) @ weight
        now = np.clip(now + step_size * np.sign(gradient), start - epsilon, start + epsilon).clip(0, 1)
    return now.reshape(inputs.shape)


@pytest.mark.parametrize(("epsilon", "step_size"), [(0.05, 0.02), (0.1, 0.01)])
def test_attack_equals_the_closed_form_of_a_linear_classifier(epsilon, step_size, split, pixels_of):
    network, inputs = _linear(0).double(), pixels_of(split).double()
    labels = torch.from_numpy(split.labels)
    found = iterative_fgsm(network, inputs, labels, epsilon=epsilon, steps=5, step_size=step_size)
    weight, bias = (value.detach().double().numpy() for value in (network[1].weight, network[1].bias))
    expected = _attacked(weight, bias, inputs.numpy(), split.labels, epsilon, 5, step_size)
    assert found.numpy() == pytest.approx(expected, abs=1e-12)
    assert (found - inputs).abs().max() <= epsilon + 1e-6
    assert (found - inputs).abs().max() >= min(epsilon, 5 * step_size) - 1e-6
    assert found.min() >= 0 and found.max() <= 1


def test_attack_raises_the_loss(models, split, pixels_of):
    inputs, labels = pixels_of(split), torch.from_numpy(split.labels)
    attacked = iterative_fgsm(models["teacher"], inputs, labels, epsilon=0.1, steps=5, step_size=0.04)
    with torch.no_grad():
        before, after = (nn.functional.cross_entropy(models["teacher"](each), labels) for each in (inputs, attacked))
    assert after > before + 0.1


def test_rates_equal_counting_by_hand(split, pixels_of):
    teacher, student, independent, foreign = (_linear(seed) for seed in range(4))
    inputs = pixels_of(split).numpy()

    def decided(network, pictures):
        weight, bias = (value.detach().double().numpy() for value in (network[1].weight, network[1].bias))
        return (pictures.reshape(len(pictures), -1) @ weight.T + bias).argmax(axis=1)

    roles = {"teacher": teacher, "student": student, "independent": independent, "foreign": foreign}
    figures = adversarial(roles, split, epsilon=0.02, steps=4)
    for attacked, prefix in ((teacher, ""), (foreign, "foreign_")):
        weight, bias = (value.detach().double().numpy() for value in (attacked[1].weight, attacked[1].bias))
        worse = _attacked(weight, bias, inputs, split.labels, 0.02, 4, 0.01)
        is_right = decided(attacked, inputs) == split.labels
        is_kept = is_right & (decided(attacked, worse) != split.labels)
        for role, name in (("student", ""), ("independent", "independent.")):
            changed = (decided(roles[role], inputs) != decided(roles[role], worse))[is_kept].mean()
            assert figures[f"{name}{prefix}fooling_rate"] == pytest.approx(changed)
        assert 0.2 < is_kept.sum() / is_right.sum() < 0.8
        share = figures["teacher.fooled" if attacked is teacher else "foreign.fooled"]
        assert share == pytest.approx(is_kept.sum() / is_right.sum())
    assert figures["images"] == (decided(teacher, inputs) == split.labels).sum() * figures["teacher.fooled"]


def test_a_network_attacked_as_foreign_gives_the_same_rates(models, split):
    figures = adversarial({**models, "foreign": models["teacher"]}, split, epsilon=0.3)
    assert figures["fooling_rate"] == figures["foreign_fooling_rate"]


def test_an_attack_that_fools_nobody_says_what_to_do(models, split):
    with pytest.raises(DataError, match="raise epsilon"):
        adversarial(models, split, epsilon=1e-7)


def test_a_network_that_is_never_right_cannot_be_fooled(split):
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        wrong[1].weight.zero_()
        wrong[1].bias.copy_(torch.tensor([-1.0, -1.0, -1.0, -1.0]))
    never = type(split)(split.inputs, np.full(len(split), 3), split.task)
    with pytest.raises(DataError, match="no picture right"):
        adversarial({"teacher": wrong, "student": wrong}, never)
