"""What a start does, by where the journal ends."""

from argparse import Namespace
from unittest import mock

import pretended
import pytest
from edgekd_agent import badmarks, durable, generations
from edgekd_agent.commands import changing
from edgekd_agent.engine import facts
from edgekd_agent.errors import AgentError
from edgekd_agent.install import undo


def killed_before(bench, release, function, module) -> None:
    """Install, and die as a function is called: nothing that follows happens, no handler runs."""

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, function, die)
        bench.install(release)


@pytest.mark.parametrize("state", ["fetching", "verifying", "building", "checking"])
def test_candidate_before_the_switch_is_discarded_and_not_held_against_it(bench, state) -> None:
    good = bench.release(1)
    bench.install(good)
    bench.enter(state)
    assert f"cut off while {state}" in bench.recover()
    assert bench.runs() == good.sha256
    assert bench.status()["state"] == "idle"
    assert bench.status()["last"]["kind"] == "interrupted"
    assert badmarks.reason(bench.layout, "f" * 64) is None
    assert bench.recover() is None


def test_release_that_takes_the_device_down_three_times_is_bad(bench) -> None:
    bench.install(bench.release(1))
    for _ in range(2):
        bench.enter("building")
        bench.recover()
        assert badmarks.reason(bench.layout, "f" * 64) is None
    bench.enter("checking")
    bench.recover()
    assert "again and again" in badmarks.reason(bench.layout, "f" * 64)


def test_interruptions_of_a_push_are_never_held_against_a_release(bench) -> None:
    for _ in range(5):
        bench.enter("verifying")
        bench.recover()
    assert badmarks.reason(bench.layout, "f" * 64) is None


def test_cut_before_the_switch_of_current_keeps_old_and_previous(bench) -> None:
    first, second, third = (bench.release(version) for version in (1, 2, 3))
    bench.install(first)
    bench.install(second)
    real = generations.point

    def die_at_current(layout, link, number):
        if link == layout.current:
            raise KeyboardInterrupt
        real(layout, link, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generations, "point", die_at_current)
        bench.install(third)
    assert pretended.what_runs(bench.root, "previous") == second.sha256
    bench.recover()
    assert bench.runs() == second.sha256
    assert pretended.what_runs(bench.root, "previous") == first.sha256
    assert bench.install(third).result == "installed"


def test_cut_after_the_switch_is_checked_once_more_and_confirmed(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    bench.install(first)
    from edgekd_agent.install import confirm

    killed_before(bench, second, "wait", confirm)
    assert bench.status()["state"] == "confirming"
    assert "confirmed generation 2" in bench.recover()
    assert bench.runs() == second.sha256
    assert bench.status()["last"]["result"] == "installed"


def test_cut_after_the_switch_goes_back_when_the_check_fails_now(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    bench.install(first)
    from edgekd_agent.install import confirm

    killed_before(bench, second, "wait", confirm)
    bench.verdicts = {"check": "it answers NaN"}
    assert "it answers NaN" in bench.recover()
    assert bench.runs() == first.sha256
    assert "it answers NaN" in badmarks.reason(bench.layout, second.sha256)
    assert bench.status()["last"]["result"] == "reverted"


def test_second_cut_on_trial_goes_back(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    bench.install(first)
    from edgekd_agent.install import confirm

    killed_before(bench, second, "wait", confirm)
    bench.enter("confirming", bundle_sha256=second.sha256, generation=2, attempt=2, **{"from": 1})
    assert "cut off twice" in bench.recover()
    assert bench.runs() == first.sha256


def test_revert_that_was_cut_off_is_finished(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    bench.install(first)
    from edgekd_agent.install import confirm

    killed_before(bench, second, "wait", confirm)
    bench.verdicts = {"check": "ill"}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generations, "point", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        bench.recover()
    assert bench.status()["state"] == "reverting"
    assert bench.runs() == second.sha256
    bench.recover()
    assert bench.runs() == first.sha256
    assert badmarks.reason(bench.layout, second.sha256)


def test_rollback_that_was_cut_off_is_finished(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    for release in (first, second):
        bench.install(release)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(undo, "finish_rollback", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        undo.rollback(bench.site, "a trial")
    assert bench.runs() == second.sha256
    bench.recover()
    assert bench.runs() == first.sha256
    assert badmarks.reason(bench.layout, second.sha256) == "operator: a trial"


def test_rollback_goes_back_once_and_needs_somewhere_to_go(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    bench.install(first)
    with pytest.raises(AgentError, match="no previous"):
        undo.rollback(bench.site, "a trial")
    bench.install(second)
    assert undo.rollback(bench.site, "a trial").number == 1
    assert bench.runs() == first.sha256
    with pytest.raises(AgentError, match="no previous") as caught:
        undo.rollback(bench.site, "a trial")
    assert caught.value.exit_code == 5


def test_engine_built_anew_for_what_runs_keeps_the_way_back_to_the_release_before(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    bench.install(first)
    bench.install(second)
    with pretended.tensorrt(), mock.patch.object(facts, "gather", lambda _: {**pretended.FACTS, "tensorrt": "10.4.0"}):
        assert "built the engine anew" in changing.recover(bench.site, Namespace()).text
        assert (bench.runs(), bench.status()["previous"]["version"]) == (second.sha256, 1)
        changing.rollback(bench.site, Namespace(reason="a trial"))
    assert bench.runs() == first.sha256
    assert badmarks.reason(bench.layout, second.sha256) is not None
    assert badmarks.reason(bench.layout, first.sha256) is None


def test_generation_of_the_release_that_runs_is_no_way_back_from_it(bench) -> None:
    release = bench.release(1)
    bench.install(release)
    with pretended.tensorrt(), mock.patch.object(facts, "gather", lambda _: {**pretended.FACTS, "tensorrt": "10.4.0"}):
        changing.recover(bench.site, Namespace())
    generations.point(bench.layout, bench.layout.previous, 1)  # as earlier agents left it
    with pytest.raises(AgentError, match="no previous"):
        undo.rollback(bench.site, "a trial")
    assert badmarks.reason(bench.layout, release.sha256) is None


def test_damaged_journal_is_set_aside_and_what_runs_runs_on(bench) -> None:
    good = bench.release(1)
    bench.install(good)
    content = bytearray(bench.layout.journal.read_bytes())
    content[40] ^= 255
    bench.layout.journal.write_bytes(content)
    assert bench.status()["is_journal_damaged"]
    assert "damaged" in bench.recover()
    assert bench.runs() == good.sha256
    assert bench.install(bench.release(2)).result == "installed"


def test_current_that_is_not_whole_gives_way_to_previous(bench) -> None:
    first, second = bench.release(1), bench.release(2)
    for release in (first, second):
        bench.install(release)
    durable.remove_tree(bench.layout.generation(2) / "golden.npz")
    assert "went back to the previous one" in bench.recover()
    assert bench.runs() == first.sha256
    assert badmarks.reason(bench.layout, second.sha256)


def test_left_overs_of_a_cut_are_cleared_away(bench) -> None:
    bench.install(bench.release(1))
    for path in (bench.layout.work, bench.layout.builds / "half.new", bench.layout.generations / "7.new"):
        path.mkdir(exist_ok=True)
    bench.enter("building")
    bench.recover()
    assert not bench.layout.work.exists()
    assert not list(bench.root.rglob("*.new"))


def test_leaving_a_generation_on_trial_keeps_the_one_before_the_last(bench) -> None:
    first, second, third = (bench.release(version) for version in (1, 2, 3))
    for release in (first, second):
        bench.install(release)
    from edgekd_agent.install import confirm

    killed_before(bench, third, "wait", confirm)
    bench.verdicts = {"check": "ill"}
    bench.recover()
    assert bench.runs() == second.sha256
    assert pretended.what_runs(bench.root, "previous") == first.sha256


def test_only_interruptions_of_building_and_checking_count_against_a_release(bench) -> None:
    for state in ("verifying", "verifying", "building"):
        bench.enter(state)
        bench.recover()
    assert badmarks.reason(bench.layout, "f" * 64) is None
