from types import SimpleNamespace

import pytest

from edgekd.core.errors import TargetError
from edgekd.data import load_dataset
from edgekd.models import build
from edgekd.pipeline import choosing
from edgekd.pipeline.choosing import require_opset, student_for
from edgekd.targets import get_target


def test_a_target_whose_parser_is_too_old_for_a_family_is_refused_before_training():
    require_opset("bert", get_target("jetson-orin"))
    require_opset("resnet", get_target("jetson-nano"))
    with pytest.raises(TargetError, match="bert has operators of ONNX opset 17, jetson-nano takes opset 13 at most"):
        require_opset("bert", get_target("jetson-nano"))


@pytest.mark.parametrize(("target", "grows"), [("cpu", True), ("jetson-orin", False)])
def test_only_what_is_measured_grows_with_width(config, monkeypatch, target, grows):
    """Upper ends of predictions do not, so every student may have to be looked at."""
    asked = {}

    def told(members, _budget, **options):
        asked.update(options)
        raise InterruptedError(f"{len(members)} members")

    monkeypatch.setattr(choosing, "choose_student", told)
    spec = choosing.spec_for(
        "resnet", depth=8, width=8, in_channels=1, num_classes=10, resolution=8, mean=(0.3,), std=(0.2,)
    )
    ledger = SimpleNamespace(stage=lambda _name, _inputs, work: work())
    context = SimpleNamespace(
        config=config(),
        target=get_target(target),
        budget=None,
        dataset=load_dataset(config().data),
        ledger=ledger,
        note=print,
    )
    with pytest.raises(InterruptedError, match="2 members"):
        student_for(context, spec, build(spec))
    assert asked["grows"] is grows
