import asyncio
import json

import pytest

from edgekd.core.errors import ConfigError, ExitCode, StorageError
from edgekd.ship.fleet import deploy, exit_code_of
from edgekd.ship.fleet.inventory import Halt, Rollout, Timeouts
from tools.reliability import virtual_time
from tools.reliability.simulated_devices import model


def test_every_device_gets_the_release_wave_after_wave(make_world):
    world = make_world(20)
    done = world.deploy()
    assert set(world.outcomes(done).values()) == {"installed"}
    assert all(one.current == model(2) for one in world.devices.values())
    assert [r.wave for r in done.results] == ["canary"] + ["10%"] + ["100%"] * 18
    assert exit_code_of(done.results) == ExitCode.DONE
    assert not done.halted


def test_a_wave_begins_only_when_the_one_before_has_lasted(make_world):
    world = make_world(20)
    world.deploy(health_wait_s=30)
    words = [(event.kind, event.stage) for event in world.events if event.kind in ("start", "end")]
    canary_end = words.index(("end", "canary-0"))
    assert all(stage == "canary-0" for kind, stage in words[:canary_end])
    installs = [index for index, event in enumerate(world.devices["canary-0"].events) if event == "install"]
    assert "hello" in world.devices["canary-0"].events[installs[0] :]


def test_the_same_release_twice_does_nothing(make_world):
    world = make_world(10)
    world.deploy()
    before = world.logged()
    for one in world.devices.values():
        one.events.clear()
    again = world.deploy()
    assert set(world.outcomes(again).values()) == {"up-to-date"}
    assert world.logged() == before
    assert all(one.events == ["hello"] for one in world.devices.values())
    assert exit_code_of(again.results) == ExitCode.DONE


def test_a_failing_canary_halts_before_anything_else_is_touched(make_world):
    world = make_world(10, canary_0="failing")
    done = world.deploy()
    assert world.outcomes(done)["canary-0"] == "failed"
    assert {world.outcomes(done)[name] for name in world.devices if name != "canary-0"} == {"not-started"}
    assert all(not one.events for name, one in world.devices.items() if name != "canary-0")
    assert "max_failed_share" in done.halted
    assert exit_code_of(done.results) == ExitCode.GATE_MISSED
    assert world.logged() == [("canary-0", "failed"), ("", "halted")]


def test_failures_beyond_the_limit_stop_devices_that_have_not_begun(make_world):
    world = make_world(40, **{f"d{n}": "failing" for n in range(4, 12)})
    done = world.deploy(halt=Halt(max_failures=2, max_failed_share=1.0), concurrency=3)
    outcomes = list(world.outcomes(done).values())
    assert 3 <= outcomes.count("failed") <= 3 + 2, "those under way end; nothing new begins"
    assert outcomes.count("not-started") > 20
    assert "max_failures" in done.halted
    assert exit_code_of(done.results) == ExitCode.FAILED


def test_failures_within_the_limit_do_not_stop_it(make_world):
    world = make_world(40, d5="failing", d9="failing")
    done = world.deploy(halt=Halt(max_failures=2, max_failed_share=0.1))
    assert list(world.outcomes(done).values()).count("installed") == 38
    assert not done.halted
    assert exit_code_of(done.results) == ExitCode.FAILED


def test_concurrency_is_kept(make_world):
    world = make_world(40)
    world.deploy(concurrency=5)
    assert world.transport.most_at_once == 5


def test_an_offline_device_is_queued_and_no_failure(make_world):
    world = make_world(10, d3="dead", d4="dead")
    done = world.deploy(halt=Halt(max_failures=0, max_failed_share=0.0))
    assert world.outcomes(done)["d3"] == "offline"
    assert not done.halted
    assert exit_code_of(done.results) == ExitCode.TARGET
    assert world.books.records.of("d3").queued == model(2).bundle_sha256
    assert ("d3", "offline") in world.logged()


def test_an_offline_device_converges_later(make_world):
    world = make_world(10, d3="dead", d4="dead")
    world.deploy()
    world.devices["d3"].behaviour = "good"
    found = {result.device_id: result.outcome for result in world.converge()}
    assert found == {"d3": "installed", "d4": "offline"}
    assert world.books.records.of("d3").queued == ""
    assert world.devices["d3"].current == model(2)


def test_converging_touches_only_what_was_queued(make_world):
    world = make_world(10, canary_0="failing")
    world.deploy()
    assert world.converge() == ()


def test_what_waited_for_a_release_that_was_overtaken_is_left_to_the_waves(make_world):
    world = make_world(10, d3="dead")
    world.deploy()
    world.devices["d3"].behaviour = "good"
    world.source.wanted["line"] = model(3)
    assert world.converge() == ()
    assert world.devices["d3"].current == model(1)
    assert world.books.records.of("d3").queued == ""


def test_canaries_that_are_all_offline_halt_it(make_world):
    world = make_world(10, canary_0="dead")
    done = world.deploy()
    assert "nothing speaks for going on" in done.halted
    assert all(not one.events for one in world.devices.values())


def test_a_device_that_vanishes_while_it_installs_is_a_failure_and_queued(make_world):
    world = make_world(10, canary_0="vanishing")
    done = world.deploy()
    assert world.outcomes(done)["canary-0"] == "silent"
    assert done.halted
    assert world.books.records.of("canary-0").queued == model(2).bundle_sha256


def test_a_device_that_goes_back_by_itself_is_seen_before_the_next_wave(make_world):
    world = make_world(10, canary_0="reverting")
    done = world.deploy(health_wait_s=60)
    result = next(result for result in done.results if result.device_id == "canary-0")
    assert result.outcome == "reverted"
    assert "no healthy heartbeats" in result.reason
    assert result.after == model(1)
    assert done.halted
    assert exit_code_of(done.results) == ExitCode.GATE_MISSED
    assert world.logged() == [("canary-0", "installed"), ("canary-0", "reverted"), ("", "halted")]


def test_a_slow_device_times_out_and_is_done_by_itself(make_world, lenient):
    world = make_world(10, d3="slow")
    done = world.deploy(halt=lenient)
    result = next(result for result in done.results if result.device_id == "d3")
    assert result.outcome == "timed-out"
    assert 590 < result.seconds < 640
    assert world.devices["d3"].operator == "", "given back although it timed out"


def test_a_release_that_failed_before_is_not_tried_again_unless_asked(make_world, lenient):
    world = make_world(10, d3="failing")
    world.deploy(halt=lenient)
    world.devices["d3"].behaviour = "good"
    world.devices["d3"].events.clear()
    done = world.deploy(halt=lenient)
    result = next(result for result in done.results if result.device_id == "d3")
    assert (result.outcome, result.exit_code) == ("failed", 3)
    assert "install" not in world.devices["d3"].events
    world.is_retried = True
    assert world.outcomes(world.deploy(halt=lenient))["d3"] == "installed"
    assert "forgive" in world.devices["d3"].events


def test_a_device_that_another_operator_holds_is_left_alone(make_world, lenient):
    world = make_world(10)
    world.devices["d3"].operator = "bob@lab"
    done = world.deploy(halt=lenient)
    result = next(result for result in done.results if result.device_id == "d3")
    assert result.outcome == "locked"
    assert "bob@lab" in result.reason
    assert world.devices["d3"].operator == "bob@lab"
    assert world.devices["d3"].current == model(1)
    assert exit_code_of(done.results) == ExitCode.FAILED


def test_devices_are_given_back_whatever_happens(make_world, lenient):
    world = make_world(12, d3="failing", d4="slow", d5="reverting")
    world.deploy(halt=lenient)
    assert {one.operator for one in world.devices.values()} == {""}


def test_another_device_at_the_address_is_refused(make_world):
    world = make_world(3)
    world.devices["canary-0"].device_id = "other"
    done = world.deploy()
    assert world.outcomes(done)["canary-0"] == "refused"
    assert "'other'" in done.results[0].reason
    assert exit_code_of(done.results) == ExitCode.TARGET
    assert "install" not in world.devices["canary-0"].events


def test_a_device_of_another_group_is_refused(make_world):
    world = make_world(3)
    inventory = world.inventory
    world.devices["canary-0"].group = "elsewhere"
    done = virtual_time.run(deploy(world.work, world.books, "line", inventory, Rollout()))
    assert world.outcomes(done)["canary-0"] == "refused"


def test_a_device_that_reads_another_release_is_not_told_to_install(make_world):
    world = make_world(3)
    calls = iter([model(2)])
    desired = world.source.desired
    world.source.desired = lambda group: next(calls, None) or desired("line")
    world.source.wanted["line"] = model(3)
    done = world.deploy()
    assert world.outcomes(done)["canary-0"] == "refused"
    assert exit_code_of(done.results) == ExitCode.TRUST
    assert "install" not in world.devices["canary-0"].events


def test_nothing_published_is_an_error(make_world):
    world = make_world(3)
    world.source.wanted.clear()
    with pytest.raises(ConfigError, match="nothing was published"):
        world.deploy()


def test_interrupted_it_gives_devices_back_and_the_same_command_goes_on(make_world, interrupted):
    world = make_world(30)
    rollout = Rollout(health_wait_s=30, concurrency=4, timeouts=Timeouts(poll_s=1))
    interrupted(deploy(world.work, world.books, "line", world.inventory, rollout), after_s=115)
    assert {one.operator for one in world.devices.values()} == {""}
    at_it = [name for name, result in world.logged() if result == "interrupted"]
    assert 0 < len(at_it) <= 4
    assert sum(one.current == model(2) for one in world.devices.values()) < 30
    for one in world.devices.values():
        one.state = "idle"  # their own loop ended with the test's
    done = world.deploy()
    assert all(one.current == model(2) for one in world.devices.values())
    assert {"installed", "up-to-date"} == set(world.outcomes(done).values())
    assert world.books.log.verify().is_whole


def test_cut_off_at_any_moment_no_device_stays_reserved(make_world, interrupted, tmp_path):
    for after_ds in range(3, 600, 23):
        world = make_world(8, d2="failing", d3="dead")
        rollout = Rollout(health_wait_s=5, concurrency=3, timeouts=world.timeouts)
        interrupted(deploy(world.work, world.books, "line", world.inventory, rollout), after_s=after_ds / 10)
        assert {one.operator for one in world.devices.values()} == {""}, after_ds
    assert world.books.log.verify().is_whole


@pytest.mark.parametrize("word", ["lock", "unlock"])
def test_cut_off_while_it_takes_or_gives_back_a_device_the_device_is_given_back(make_world, word):
    world = make_world(2)
    world.transport.slow[word] = 5.0

    async def cut():
        deploying = asyncio.ensure_future(
            deploy(world.work, world.books, "line", world.inventory, Rollout(timeouts=world.timeouts))
        )
        while word not in world.transport.begun:
            await asyncio.sleep(0.1)
        deploying.cancel()
        await asyncio.gather(deploying, return_exceptions=True)

    world.devices["canary-0"].operator = world.owner if word == "lock" else ""  # as if the order had arrived
    virtual_time.run(cut())
    assert {one.operator for one in world.devices.values()} == {""}


def test_a_device_that_still_installs_what_a_killed_command_began_is_waited_for(make_world):
    world = make_world(3)
    one = world.devices["canary-0"]
    states = iter(["building"] * 3)

    answer = one.answer

    def busy(words, source):
        one.state = next(states, "idle") if words[0] == "status" else one.state
        if words[0] == "status" and one.state == "idle" and "install" not in one.events:
            one.current = model(2)
        return answer(words, source)

    one.answer = busy
    done = world.deploy()
    assert world.outcomes(done)["canary-0"] == "installed"


def test_the_log_names_who_what_from_to_and_how_long(make_world):
    world = make_world(3)
    world.deploy()
    first = world.books.log.read()[0]
    assert (first["who"], first["device_id"], first["group"]) == ("ann@desk", "canary-0", "line")
    assert first["digest"] == model(2).bundle_sha256
    assert (first["from"], first["to"], first["result"]) == (str(model(1)), str(model(2)), "installed")
    assert 19 < first["seconds"] < 40
    assert first["deployment"].startswith("line-")


def test_a_log_that_cannot_be_written_stops_it(make_world, monkeypatch):
    world = make_world(10)

    def full(record):
        raise StorageError("cannot write audit.jsonl: No space left on device")

    monkeypatch.setattr(world.books.log, "append", full)
    with pytest.raises(StorageError, match="No space"):
        world.deploy()
    assert all(not one.events for name, one in world.devices.items() if name != "canary-0")


def test_status_says_desired_reported_and_last_seen(make_world):
    world = make_world(4, d3="dead")
    world.deploy()
    world.source.wanted["line"] = model(3)
    found = {one.device.id: one for one in world.status()}
    assert found["d1"].desired == model(3)
    assert found["d1"].record.reported == model(2)
    assert not found["d1"].is_as_desired
    assert found["d1"].record.last_seen
    assert found["d3"].record.last_seen == ""
    assert "cannot be reached" in found["d3"].sight.problem


def test_status_without_asking_tells_what_was_known(make_world):
    world = make_world(4)
    world.deploy()
    for one in world.devices.values():
        one.events.clear()
    found = world.status(is_asked=False)
    assert all(one.is_as_desired and one.sight is None for one in found)
    assert all(not one.events for one in world.devices.values())


def test_status_notices_that_a_queued_device_has_caught_up(make_world):
    world = make_world(10, d3="slow")
    world.deploy()
    assert world.books.records.of("d3").queued
    world.devices["d3"].current, world.devices["d3"].state = model(2), "idle"
    world.status()
    assert world.books.records.of("d3").queued == ""


def test_rollback_sends_devices_back_and_is_written_down(make_world):
    world = make_world(4, d3="dead")
    world.deploy()
    results = {result.device_id: result for result in world.roll_back()}
    assert results["d1"].outcome == "rolled-back"
    assert results["d3"].outcome == "offline"
    assert world.devices["d1"].current == model(1)
    record = next(r for r in world.books.log.read() if r["result"] == "rolled-back")
    assert (record["from"], record["to"]) == (str(model(2)), str(model(1)))
    assert world.books.log.verify().is_whole


def test_rollback_of_a_device_with_nothing_to_go_back_to_says_so(make_world):
    world = make_world(2)
    results = world.roll_back()
    assert {result.outcome for result in results} == {"failed"}
    assert "no previous" in results[0].reason
    assert exit_code_of(results) == ExitCode.PRECONDITION


def test_records_survive_damage(make_world):
    world = make_world(3)
    world.deploy()
    path = world.books.records.folder / "devices" / "d1.json"
    path.write_text(json.dumps({"schema_version": 1, "reported": 7}))
    assert world.books.records.of("d1").reported is None
    world.status()
    assert world.books.records.of("d1").reported == model(2)
