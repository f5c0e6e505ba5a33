import pytest
import torch
import torch.nn.functional as F

from edgekd.models import build, count_macs, count_params, load_teacher, spec_for
from edgekd.models.resnet import PadShortcut

CIFAR = {"in_channels": 3, "num_classes": 10, "resolution": 32}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resnet(depth, *, width=16, shortcut="A", resolution=32):
    spec = spec_for(
        "resnet",
        depth=depth,
        width=width,
        in_channels=3,
        num_classes=10,
        resolution=resolution,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        options={"shortcut": shortcut},
    )
    torch.manual_seed(1)
    return shaken(build(spec))


def shaken(module):
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
    return module.eval()


def batch_norm(weights, name, x):
    shape = (1, -1, 1, 1)
    scale = weights[f"{name}.weight"] / (weights[f"{name}.running_var"] + 1e-5).sqrt()
    return (x - weights[f"{name}.running_mean"].reshape(shape)) * scale.reshape(shape) + weights[
        f"{name}.bias"
    ].reshape(shape)


def he_forward(weights, blocks, x, *, strides=(1, 2, 2)):
    """Residual network written down again from the paper, float64, straight from a state dict."""
    weights = {name: value.double() for name, value in weights.items()}
    x = batch_norm(weights, "bn1", F.conv2d(x, weights["conv1.weight"], padding=1)).clamp(min=0)
    for stage, first_stride in enumerate(strides, start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", first_stride if block == 0 else 1
            y = F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = batch_norm(weights, f"{name}.bn1", y).clamp(min=0)
            y = batch_norm(weights, f"{name}.bn2", F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1))
            if f"{name}.shortcut.0.weight" in weights:
                projected = F.conv2d(x, weights[f"{name}.shortcut.0.weight"], stride=stride)
                x = batch_norm(weights, f"{name}.shortcut.1", projected)
            elif y.shape[1] != x.shape[1]:
                skipped = torch.zeros_like(y)
                low = (y.shape[1] - x.shape[1]) // 2
                skipped[:, low : low + x.shape[1]] = F.interpolate(x, size=y.shape[2:], mode="nearest")
                x = skipped
            x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("width", [3, 16])
def test_resnet_computes_what_the_paper_says(shortcut, width):
    module = resnet(14, width=width, shortcut=shortcut)
    inputs = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1).double() for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = he_forward(module.get_submodule("net").state_dict(), 2, (inputs.double() - mean) / std)
    with torch.no_grad():
        assert torch.allclose(module.double()(inputs.double()), expected, atol=1e-6)


def test_pad_shortcut_takes_every_second_pixel_and_pads_with_zeros():
    maps = torch.arange(2 * 3 * 5 * 5, dtype=torch.float32).reshape(2, 3, 5, 5) + 1
    padded = PadShortcut(3, 2)(maps)
    assert padded.shape == (2, 6, 3, 3)
    for b in range(2):
        for channel, source in enumerate((None, 0, 1, 2, None, None)):
            for row in range(3):
                for column in range(3):
                    expected = 0 if source is None else maps[b, source, 2 * row, 2 * column]
                    assert padded[b, channel, row, column] == expected


def stage_macs(channels, pixels, blocks, *, halves):
    first = (channels // 2 if halves else channels) * channels * 9 * pixels
    return first + (2 * blocks - 1) * channels * channels * 9 * pixels


@pytest.mark.parametrize(("depth", "params", "macs"), [(20, 269_722, 40_551_040), (56, 853_018, 125_485_696)])
def test_resnet_has_the_published_size(depth, params, macs):
    module, blocks = resnet(depth), (depth - 2) // 6
    closed_form = 3 * 16 * 9 * 1024 + stage_macs(16, 1024, blocks, halves=False) + 64 * 10
    closed_form += stage_macs(32, 256, blocks, halves=True) + stage_macs(64, 64, blocks, halves=True)
    assert count_params(module) == params
    assert count_macs(module, (3, 32, 32)) == closed_form == macs


def test_projection_shortcut_costs_what_it_should():
    plain, projected = resnet(8), resnet(8, shortcut="B")
    extra = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count_params(projected) - count_params(plain) == extra
    assert count_macs(projected, (3, 32, 32)) - count_macs(plain, (3, 32, 32)) == 16 * 32 * 256 + 32 * 64 * 64


def test_large_input_is_reduced_like_imagenet():
    module = resnet(8, width=4, resolution=224)
    sizes = []
    for layer in module.get_submodule("net"):
        layer.register_forward_hook(lambda _layer, _inputs, output: sizes.append(tuple(output.shape[2:])))
    module(torch.zeros(1, 3, 224, 224))
    assert sizes[:7] == [(112, 112)] * 3 + [(56, 56)] * 2 + [(28, 28), (14, 14)]


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9)])
def test_published_checkpoint_gives_the_logits_of_the_paper(shared_data, name, blocks):
    (path,) = (shared_data / "teachers").glob(f"{name}-*.th")
    _, teacher = load_teacher(name, **CIFAR, mean=IMAGENET_MEAN, std=IMAGENET_STD, weights=path)
    stored = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    weights = {key.removeprefix("module."): value for key, value in stored.items()}
    assert count_params(teacher) == sum(value.numel() for key, value in weights.items() if "running" not in key)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(8, 3, 32, 32, generator=generator)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1).double() for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = he_forward(weights, blocks, (inputs.double() - mean) / std)
        assert torch.allclose(teacher(inputs).double(), expected, atol=1e-4)
