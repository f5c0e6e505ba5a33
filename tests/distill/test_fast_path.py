"""Pictures on the device, channels last, compiled passes: faster, not different."""

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.distill import load_recipe, outputs_of


@pytest.fixture
def interpreted(monkeypatch):
    """Trace networks as a compiled pass would, but run the graphs operator by operator: no compiler, exact results."""
    compile_ = torch.compile
    calls = []

    def traced(function, *, mode, fullgraph, dynamic):
        calls.append(mode)
        return compile_(function, backend="aot_eager", fullgraph=fullgraph, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", traced)
    return calls


def _same(one, other):
    mine, theirs = one.student.state_dict(), other.student.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_resident_pictures_give_the_same_student(run, settings, augment):
    host = settings.model_copy(update={"augment": augment})
    assert _same(run("kd", settings=host), run("kd", settings=host.model_copy(update={"resident": True})))


def test_channels_last_gives_the_same_student_up_to_rounding(run, settings, dataset):
    one, other = (
        run("kd", settings=settings.model_copy(update={"channels_last": is_last})) for is_last in (False, True)
    )
    torch.testing.assert_close(
        outputs_of(one.student, dataset.val), outputs_of(other.student, dataset.val), rtol=1e-2, atol=1e-2
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mas", "vid"])
def test_compiled_passes_give_the_same_student_with_taps_and_attachments(run, settings, interpreted, method):
    compiled = settings.model_copy(update={"compile": "reduce-overhead"})
    assert _same(run(method), run(method, settings=compiled))
    assert set(interpreted) == {"reduce-overhead"}


def test_compiled_passes_leave_no_hook_behind(run, settings, teacher, monkeypatch):
    from edgekd.distill import compiled as module
    from edgekd.distill.net import TracedNet

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    net = TracedNet(teacher[1], penultimate="net.flatten")
    net.tap(["net.layer1", "net.layer3"])
    inputs = torch.rand(3, 1, 8, 8)
    expected = net(inputs)
    with module.compiled([net], "default"):
        trace = net(inputs)
        assert net.run_backbone is not None
    assert net.run_backbone is None
    assert not any(layer._forward_hooks for layer in net.backbone.modules())
    assert torch.equal(trace.logits, expected.logits)
    assert all(torch.equal(trace.feats[path], expected.feats[path]) for path in ("net.layer1", "net.layer3"))


def test_a_method_that_reads_input_gradients_is_not_compiled(teacher):
    from edgekd.distill.compiled import compiled
    from edgekd.distill.net import TracedNet

    net = TracedNet(teacher[1], penultimate="net.flatten")
    net.tap([], input_gradient=True)
    with pytest.raises(ConfigError, match="set train.compile=no"), compiled([net], "default"):
        pass


def test_the_mean_loss_of_an_epoch_is_that_of_its_steps(run):
    history = run("plain").history
    assert np.isfinite([epoch.loss for epoch in history]).all()
    assert load_recipe("plain").stages[0].name == history[0].stage
    assert [epoch.loss for epoch in history] == pytest.approx([epoch.terms["cross-entropy"] for epoch in history])
