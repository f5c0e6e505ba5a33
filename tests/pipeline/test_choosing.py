import pytest

from edgekd.core.errors import TargetError
from edgekd.pipeline.choosing import require_opset
from edgekd.targets import get_target


def test_a_target_whose_parser_is_too_old_for_a_family_is_refused_before_training():
    require_opset("bert", get_target("jetson-orin"))
    require_opset("resnet", get_target("jetson-nano"))
    with pytest.raises(TargetError, match="bert has operators of ONNX opset 17, jetson-nano takes opset 13 at most"):
        require_opset("bert", get_target("jetson-nano"))
