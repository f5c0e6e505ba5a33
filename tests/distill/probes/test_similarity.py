"""CKA against its definition by centring matrices in numpy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from edgekd.distill.probes import cka, rbf_cka


def _hsic_ratio(one, other):
    centre = np.eye(len(one)) - 1 / len(one)

    def hsic(a, b):
        return np.trace(a @ centre @ b @ centre)

    return hsic(one, other) / np.sqrt(hsic(one, one) * hsic(other, other))


def _gaussian(rows, bandwidth):
    # the lower of the two middle distances, as torch's median is
    distances = np.sort(pdist(rows, "sqeuclidean"))
    median = distances[(len(distances) - 1) // 2]
    return np.exp(-cdist(rows, rows, "sqeuclidean") / (2 * bandwidth**2 * median))


def _maps(network, inputs):
    seen, found = {}, inputs
    with torch.no_grad():
        for name, layer in [("normalize", network.normalize), *network.net.named_children()]:
            found = layer(found)
            seen[name] = found.flatten(1).double().numpy()
    return seen


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_grid_equals_the_definition(kernel, models, split, pixels_of):
    figures = cka(models, split, images=60, kernel=kernel, bandwidth=0.7)
    inputs = pixels_of(split)
    teacher = _maps(models["teacher"], inputs)
    compared = 0
    for prefix, role in (("", "student"), ("independent.", "independent")):
        maps = _maps(models[role], inputs)
        for layer in ("layer1", "layer2", "layer3", "flatten"):
            for other in ("layer1", "layer2", "layer3", "flatten"):
                grams = [
                    rows @ rows.T if kernel == "linear" else _gaussian(rows, 0.7)
                    for rows in (maps[other], teacher[layer])
                ]
                (name,) = (
                    key for key in figures if key.startswith(f"{prefix}net.{layer}") and f" x net.{other}" in key
                )
                assert figures[name] == pytest.approx(_hsic_ratio(*grams), rel=1e-4)
                compared += 1
    assert compared == 32
    assert figures["matched"] == pytest.approx(
        np.mean(
            [figures[f"net.{name}.0 x net.{name}.0"] for name in ("layer1", "layer2", "layer3")]
            + [figures["net.flatten x net.flatten"]]
        )
    )


def test_rbf_is_one_up_to_rotation_shift_and_scale():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    moved = 3 * rows @ rotation + 5
    assert rbf_cka(torch.from_numpy(rows), torch.from_numpy(moved)) == pytest.approx(1)
    bent = torch.from_numpy(rows**3)
    assert rbf_cka(torch.from_numpy(rows), bent) < 0.95


def test_rbf_of_wide_kernels_is_linear():
    # exp(-d / s) -> 1 - d / s for large s, and centring leaves the Gram matrix
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 15, 4))
    expected = _hsic_ratio(one @ one.T, other @ other.T)
    found = rbf_cka(torch.from_numpy(one), torch.from_numpy(other), bandwidth=100.0)
    assert found == pytest.approx(expected, abs=1e-3)


def test_features_that_do_not_vary_are_unrelated():
    assert rbf_cka(torch.ones(5, 3), torch.rand(5, 3)) == 0.0


def test_trained_networks_are_more_alike_than_a_random_one(models, split):
    random = cka({"teacher": models["teacher"], "student": models["start"]}, split)
    assert random["matched"] < cka({"teacher": models["teacher"], "student": models["teacher"]}, split)["matched"]
