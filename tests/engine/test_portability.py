"""Where a plan may run beside the place it was built."""

import pytest

from edgekd.core.errors import ConfigError
from edgekd.engine.backend import BuildOptions
from edgekd.engine.onnxruntime import OnnxRuntime
from edgekd.engine.portability import TIED, Portability, hardware_named, loads, runs_on
from edgekd.engine.tensorrt_rtx import TensorRtRtx
from edgekd.targets import get_target

WIDE = {"portability": Portability(True, "ampere+").document()}


@pytest.mark.parametrize(
    ("built", "here", "is_loaded"),
    [
        ("10.3.0", "10.3.0", True),
        ("10.3.0", "10.14.1", True),
        ("10.3.0.26", "10.3.0.30", True),
        ("10.14.1", "10.3.0", False),
        ("10.3.0", "10.4.0rc1", True),
        ("8.6.1", "10.3.0", True),
        ("8.6.1", "11.4.1", False),
        ("10.14.1.48.post1", "11.4.0.106", True),
        ("11.0.0", "10.16.2", False),
    ],
)
def test_version_compatible_plans_go_upwards_by_one_major_version(built, here, is_loaded) -> None:
    assert loads(built, here, WIDE) is is_loaded
    assert loads(built, here, {}) is (built == here)
    assert loads(built, here, {"portability": TIED.document()}) is (built == here)


def test_only_plans_for_ampere_and_later_run_on_other_gpus() -> None:
    assert [runs_on("sm_86", sm, WIDE) for sm in (75, 80, 86, 120)] == [False, True, True, True]
    assert [runs_on("sm_86", sm, {}) for sm in (80, 86)] == [False, True]
    same = {"portability": Portability(hardware="same-sm").document()}
    assert [runs_on("sm_86", sm, same) for sm in (80, 86)] == [False, True]


def test_advice_goes_with_what_was_chosen() -> None:
    assert TIED.advice == ()
    assert len(Portability(True, "ampere+").advice) == 2
    assert "slower" in Portability(hardware="ampere+").advice[0]


def test_unknown_levels_are_refused() -> None:
    assert hardware_named("same-sm") == "same-sm"
    with pytest.raises(ConfigError, match=r"'turing' is none of none, ampere\+, same-sm"):
        hardware_named("turing")
    with pytest.raises(ConfigError, match="optimization_level is 6, it goes from 0 to 5"):
        BuildOptions(get_target("cpu"), optimization_level=6)


@pytest.mark.parametrize("options", [{"optimization_level": 3}, {"portability": Portability(version=True)}])
def test_onnxruntime_takes_neither(onnx_model, tmp_path, options) -> None:
    with pytest.raises(ConfigError, match="onnxruntime has neither"):
        OnnxRuntime().build(onnx_model("fp32"), tmp_path, BuildOptions(get_target("cpu"), **options))


def test_rtx_engines_take_no_compatibility(onnx_model, tmp_path) -> None:
    from edgekd.core.errors import BuildError

    options = BuildOptions(get_target("rtx-4090"), portability=Portability(version=True))
    with pytest.raises(BuildError, match="no version or hardware compatibility"):
        TensorRtRtx().build(onnx_model("fp32"), tmp_path, options)
