import pytest
import torch
from torch.nn import functional as F

from edgekd.core.errors import ConfigError
from edgekd.models import build, count_macs, leading_weights, parse_net, spec_for


def _spec(text="resnet8-w4", resolution=32, **options):
    family, choice = parse_net(text)
    return spec_for(
        family,
        **{**choice, "options": {**choice.get("options", {}), **options}},
        in_channels=1,
        num_classes=10,
        resolution=resolution,
        mean=(0.3,),
        std=(0.2,),
    )


@pytest.mark.parametrize("side", [32, 64])
def test_a_reduced_network_is_the_small_one_on_averaged_pictures(side):
    reduced, small = build(_spec(reduce="2", resolution=side)).eval(), build(_spec(resolution=side // 2)).eval()
    small.load_state_dict(reduced.state_dict())
    pictures = torch.rand(3, 1, side, side)
    assert torch.allclose(reduced(pictures), small(F.avg_pool2d(pictures, 2)), atol=1e-5)
    assert count_macs(reduced, (1, side, side)) == count_macs(small, (1, side // 2, side // 2))


def test_its_name_says_so_and_the_text_form_reads_it():
    assert _spec(reduce="2").name == "resnet8-w4@32/2"
    assert _spec("resnet:depth=8,width=4,reduce=2").digest == _spec(reduce="2").digest
    assert _spec(reduce="1").name == "resnet8-w4@32"


@pytest.mark.parametrize(("resolution", "by"), [(8, "2"), (28, "3"), (30, "4"), (28, "4")])
def test_reductions_that_leave_too_little_are_refused(resolution, by):
    with pytest.raises(ConfigError, match="reduce"):
        _spec(resolution=resolution, reduce=by)


def test_dense_families_take_no_reduction():
    with pytest.raises(ConfigError, match="reduce"):
        _spec("fcn8-w4", reduce="2")


def test_kernel_five_reaches_further_at_five_ninths_more_depthwise_work():
    three, five = _spec("mobilenetv27-w4"), _spec("mobilenetv2:depth=7,width=4,kernel=5")
    sizes = {tuple(module.kernel_size) for module in build(five).modules() if getattr(module, "groups", 1) > 1}
    assert sizes == {(5, 5)} and five.name == "mobilenetv27-w4-k5@32"
    assert count_macs(build(five), (1, 32, 32)) > count_macs(build(three), (1, 32, 32))


def test_leading_weights_end_at_the_first_difference():
    small, large = build(_spec("resnet8-w4")), build(_spec("resnet14-w4"))
    taken = leading_weights(small.state_dict(), large.state_dict())
    names = list(small.state_dict())
    assert list(taken) == names[: len(taken)]
    assert "net.layer1.0.bn2.weight" in taken and "net.layer2.0.conv1.weight" not in taken
    assert all(torch.equal(value, large.state_dict()[name]) for name, value in taken.items())
    assert leading_weights(build(_spec("resnet8-w8")).state_dict(), large.state_dict()) == {}
