"""What a run's trainings take, and the batch that fits, before anything is trained."""

import pytest

from edgekd.core.errors import ConfigError, EdgeKDError
from edgekd.data import load_dataset
from edgekd.distill import load_recipe
from edgekd.pipeline.config import RunConfig
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.estimating import estimate_text, estimated, sized
from edgekd.pipeline.ledger import Ledger
from edgekd.pipeline.run import RunRequest, distill
from edgekd.pipeline.training import teacher_net
from edgekd.targets import get_target


def test_every_training_of_a_run_is_estimated(config):
    found = estimated(config(target="jetson-orin", method="sp"))
    assert [(one.training, one.times, one.batch_size) for one in found] == [
        ("teacher", 1, 32),
        ("alone", 2, 32),
        ("distilled", 2, 32),
    ]
    # 340 of 400 rows train, in ten steps of 32.
    assert [[stage.steps for stage in one.stages] for one in found] == [[40], [20], [20]]
    text = estimate_text(found)
    assert "distilled resnet8" in text and "2 x:" in text and "together:" in text


@pytest.fixture
def context(config, tmp_path):
    def go(**train):
        changed = config(method="kd").model_copy(update={"train": config().train.model_copy(update=train)})
        with Ledger.open(tmp_path / "run") as ledger:
            data = load_dataset(changed.data)
            made = RunContext(changed, None, get_target("cpu"), load_recipe("kd"), data, ledger, ledger.listen)
            spec, network = teacher_net(made)
            return sized(made, spec, (spec, network)).config.train

    return go


def test_the_batch_that_fits_is_found_once_and_kept(context, monkeypatch):
    found = context(auto_batch=True, memory_mb=2000)
    assert found.batch_size == 256 and not found.auto_batch
    small = context(auto_batch=True, memory_mb=2)
    assert small.batch_size < 256

    def must_not(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr("edgekd.pipeline.estimating.fitting_batch_size", must_not)
    assert context(auto_batch=True, memory_mb=2).batch_size == small.batch_size
    assert context().batch_size == 32


def test_a_cpu_has_to_be_told_what_it_may_fill(context):
    with pytest.raises(ConfigError, match="set train.memory_mb"):
        context(auto_batch=True)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"budget": "energy<1mJ"}, ConfigError, "cannot be known on cpu"),
        ({"budget": "p99<1us", "target": "jetson-orin"}, EdgeKDError, "launch"),
        ({"also_build": ["nosuch"]}, ConfigError, "unknown target 'nosuch'"),
        ({"method": "rl-kd", "train": {"accumulate": 2}}, ConfigError, "accumulate"),
        ({"method": "dual-student", "precision": {"qat": True, "qat_method": "run"}}, ConfigError, "qat"),
    ],
    ids=["unknown clause", "below the floor", "no target", "parts", "qat"],
)
def test_an_estimate_is_refused_as_the_run_would_be(config, tmp_path, monkeypatch, changed, error, message):
    def must_not(*arguments, **options):
        raise AssertionError("networks were made")

    monkeypatch.setattr("edgekd.pipeline.estimating.teacher_net", must_not)
    asked = config().model_dump(mode="json")
    nested = {name: {**asked[name], **value} for name, value in changed.items() if isinstance(value, dict)}
    wanted = RunConfig.model_validate({**asked, **changed, **nested})
    with pytest.raises(error, match=message) as told:
        distill(wanted, RunRequest(tmp_path / "run", command="run"))
    with pytest.raises(error) as planned:
        estimated(wanted)
    assert str(planned.value) == str(told.value)
