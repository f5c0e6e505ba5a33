"""The published ResNets, loaded through edgekd, keep their published accuracy on real images."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from edgekd.models import load_teacher

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def cifar_test(shared_data):
    with zipfile.ZipFile(shared_data / "images" / "cifar10_small.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("test/"))
        strips = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
        labels = np.frombuffer(archive.read("test_labels.u8"), np.uint8).astype(np.int64)
    images = np.concatenate([strip.reshape(-1, 32, 32, 3) for strip in strips])
    assert len(images) == len(labels) == 1000
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


@pytest.mark.parametrize(("name", "published"), [("resnet20", 0.9173), ("resnet56", 0.9339)])
def test_teacher_reaches_its_published_accuracy(shared_data, cifar_test, name, published):
    (weights,) = (shared_data / "teachers").glob(f"{name}-*.th")
    _, teacher = load_teacher(name, in_channels=3, num_classes=10, resolution=32, weights=weights, **IMAGENET)
    images, labels = cifar_test
    with torch.no_grad():
        hits = [
            (teacher(part.float() / 255).argmax(1) == truth)
            for part, truth in zip(images.split(100), labels.split(100), strict=True)
        ]
    accuracy = torch.cat(hits).float().mean().item()
    sigma = math.sqrt(published * (1 - published) / len(labels))
    assert abs(accuracy - published) <= 3 * sigma
