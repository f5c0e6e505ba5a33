"""A small slice of each experiment on reliability; tools/reliability/run.py does them whole."""

import shutil

import bad_models
import cycles
import failing_disk
import kill_everywhere
import kill_in_states
import power_loss
import pytest
import real_device
from edgekd_agent import durable
from recording import Recorder, Stopped

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")


@pytest.fixture(scope="module")
def device(tmp_path_factory) -> real_device.Template:
    return real_device.template(tmp_path_factory.mktemp("made"))


def scenario(name: str) -> power_loss.Scenario:
    (found,) = (item for item in power_loss.scenarios() if item.name == name)
    return found


@pytest.mark.parametrize("name", ["rollback by an operator", "forgiven, reserved, released", "metadata taken in"])
def test_no_power_loss_harms_and_every_fsync_is_missed(name, tmp_path) -> None:
    trace = power_loss.record(scenario(name), tmp_path)
    found = power_loss.judge(trace, tmp_path)
    assert found.failures == []
    assert found.states > 10
    count, missed = power_loss.mutations(trace, tmp_path)
    assert missed == []
    assert count >= 5


@pytest.mark.parametrize("name", ["first install", "update", "not confirmed"])
def test_power_loss_during_an_install_leaves_something_that_runs(name, tmp_path) -> None:
    trace = power_loss.record(scenario(name), tmp_path)
    assert len(trace.fsyncs()) >= 25
    found = power_loss.judge(trace, tmp_path, every=17)
    assert found.failures == []
    assert found.states > 5


def test_model_misses_the_fsync_of_a_plan(tmp_path) -> None:
    """The oracle itself: a builder's plan that nobody made durable may be empty after a power loss."""
    trace = power_loss.record(scenario("update"), tmp_path)
    (plan,) = (index for index in trace.fsyncs() if "settle < shop" in trace.ops[index].site)
    assert power_loss.judge(trace, tmp_path, without=plan).failures


def test_recovery_after_a_kill_survives_a_power_loss(tmp_path) -> None:
    again = power_loss.cut_and_recovered(scenario("update"), 60)
    found = power_loss.judge(power_loss.record(again, tmp_path), tmp_path, every=5)
    assert found.failures == []
    assert found.states > 0


def test_every_change_goes_through_the_one_module(tmp_path) -> None:
    """What is on the disk afterwards is what was recorded: nothing is written behind the model's back."""
    from disk_model import Disk

    chosen = scenario("update")
    trace = power_loss.record(chosen, tmp_path)
    disk = Disk(trace.start)
    for op in trace.ops:
        disk.apply(op)
    whole = max((tree for tree, _ in disk.states(0)), key=len)
    real = {path for path in power_loss.tree_of(tmp_path / "record") if not path.startswith(("work", "logs", "facts"))}
    assert real <= set(whole)


def test_killed_recorder_stops_before_the_change(tmp_path) -> None:
    recorder = Recorder(tmp_path, stop_at=1)
    with recorder.recording(), pytest.raises(Stopped):
        durable.write_new(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b""


@needs_strace
def test_killed_install_leaves_something_that_runs_and_the_next_converges(device, tmp_path) -> None:
    points = kill_everywhere.points(device, tmp_path)
    assert len(points) > 300
    renames = [point for point in points if point.call == "rename"]
    for point in (renames[len(renames) // 2], renames[-3]):
        assert kill_everywhere.kill_at(device, point, tmp_path).failures == []


@pytest.mark.parametrize(("state", "kills"), [("building", 2), ("confirming", 1)])
def test_install_killed_in_a_state_converges(device, tmp_path, state, kills) -> None:
    result = kill_in_states.try_one(device, tmp_path / "device", state, kills, 3)
    assert result.failures == []
    assert result.kills >= 1


def test_disk_that_refuses_is_survived(tmp_path) -> None:
    figures = failing_disk.run(tmp_path, every=9, is_real=False)
    assert figures["failures"] == []
    assert figures["injected"] >= 60


def test_crashing_builder_is_a_result(device, tmp_path) -> None:
    assert bad_models.crash(device, device.copy(tmp_path / "device"), tmp_path) == []


def test_cycles_do_not_grow(tmp_path) -> None:
    figures = cycles.run(tmp_path, count=9)
    assert figures["failures"] == []
    assert figures["last_descriptors"] == figures["settled_descriptors"]
    assert figures["entries"] < 150
