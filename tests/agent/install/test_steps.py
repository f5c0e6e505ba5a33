"""An install from pushed blobs to a confirmed generation, and every way it may end otherwise."""

import dataclasses
from unittest import mock

import power_loss
import pretended
import pytest
from edgekd_agent import badmarks, generations, space, staging
from edgekd_agent.engine import facts
from edgekd_agent.engine.shop import Shop
from edgekd_agent.errors import AgentError
from edgekd_agent.install import steps
from edgekd_agent.reader import parse_manifest


def test_install_goes_through_every_state_and_runs_what_was_signed(bench) -> None:
    release = bench.release(1)
    outcome = bench.install(release)
    assert (outcome.result, outcome.generation, outcome.bundle_sha256) == ("installed", 1, release.sha256)
    assert bench.states() == ["fetching", "verifying", "building", "checking", "switching", "confirming", "idle"]
    assert bench.runs() == release.sha256
    assert bench.status()["last"]["result"] == "installed"
    assert not list(bench.layout.parts.iterdir())


def test_second_install_keeps_the_first_to_go_back_to(bench) -> None:
    first, second, third = (bench.release(version) for version in (1, 2, 3))
    for release in (first, second):
        bench.install(release)
    assert pretended.what_runs(bench.root, "previous") == first.sha256
    bench.install(third)
    assert pretended.what_runs(bench.root, "previous") == second.sha256
    assert sorted(path.name for path in bench.layout.generations.iterdir()) == ["2", "3"]
    assert len(list(bench.layout.builds.iterdir())) == 2
    kept = {path.name for path in bench.layout.blobs.glob("*/*")}
    assert kept == set(second.blobs) | set(third.blobs)


def test_same_release_again_is_nothing_to_do(bench) -> None:
    release = bench.release(1)
    bench.install(release)
    states = bench.states()
    assert bench.install(release).result == "nothing-to-do"
    assert bench.states() == states


@pytest.mark.parametrize(("part", "kind", "code"), [("build", "build", 1), ("check", "health", 3)])
def test_failed_candidate_is_dropped_and_remembered(bench, part, kind, code) -> None:
    good, ill = bench.release(1), bench.release(2)
    bench.install(good)
    bench.verdicts = {part: "it is no good"}
    with pytest.raises(AgentError, match="it is no good") as caught:
        bench.install(ill)
    assert (caught.value.kind, caught.value.exit_code) == (kind, code)
    assert bench.runs() == good.sha256
    assert bench.status()["last"] == {
        "bundle_sha256": ill.sha256,
        "result": "failed",
        "kind": kind,
        "reason": "it is no good",
        "seconds": bench.status()["last"]["seconds"],
    }
    bench.verdicts = {}
    with pytest.raises(AgentError, match="failed here before") as caught:
        bench.install(ill)
    assert caught.value.kind == "bad"
    assert badmarks.forgive(bench.layout, ill.sha256)
    assert bench.install(ill).result == "installed"


def test_first_release_that_fails_leaves_nothing_running(bench) -> None:
    bench.verdicts = {"check": "it is no good"}
    with pytest.raises(AgentError):
        bench.install(bench.release(1))
    assert bench.runs() is None
    assert not bench.layout.current.exists()


def test_blob_that_did_not_arrive_is_named_and_not_held_against_the_release(bench) -> None:
    release = bench.release(1)
    with pytest.raises(AgentError, match="has not arrived") as caught:
        bench.install(release, is_pushed=False)
    assert caught.value.kind == "missing"
    assert bench.install(release).result == "installed"


def test_space_is_asked_for_before_anything_is_done(bench, monkeypatch) -> None:
    release = bench.release(1, padding_bytes=1000)
    needed = []
    real = space.measured
    monkeypatch.setattr(space, "measured", lambda *given: needed.append(real(*given)) or needed[-1])
    bench.install(release)
    model = next(item for item in release.blobs.values() if b"student" in item)
    copied = max(map(len, release.blobs.values()))
    assert needed[0].needed_bytes == (8 << 20) + 2 * len(model) + copied  # everything had arrived
    bench.settings = dataclasses.replace(bench.settings, reserve_mib=1 << 40)
    with pytest.raises(AgentError, match="bytes are needed") as caught:
        bench.install(bench.release(2), is_pushed=False)
    assert caught.value.exit_code == 5
    sizes = [len(content) for content in bench.release(2).blobs.values()]
    arriving = sum(sizes) + max(sizes)  # staged, then each copied in its turn
    assert needed[1].needed_bytes == arriving + (8 << 20) + 2 * len(model) + (1 << 60)
    monkeypatch.setattr(staging, "is_elsewhere", lambda layout: True)
    with pytest.raises(AgentError, match="bytes are needed"):
        bench.install(bench.release(2))
    assert needed[2].needed_bytes == sum(sizes) + (8 << 20) + 2 * len(model) + (1 << 60)
    assert bench.states()[-1] == "idle"


def test_device_that_is_too_hot_to_build_is_a_precondition_and_no_mark(bench) -> None:
    release = bench.release(1)
    bench.settings = dataclasses.replace(bench.settings, max_temperature_c=70.0)
    power_loss.put_parts(bench.root, release)
    with pretended.tensorrt(), mock.patch.object(facts, "hottest_c", lambda: 91.0):
        shop = Shop(bench.site)
        manifest = parse_manifest(release.manifest)
        candidate = steps.candidate_of(bench.site, release.manifest, release.sha256, manifest, shop)
        with pytest.raises(AgentError, match="91 degrees, too hot") as caught:
            steps.install(bench.site, candidate, shop)
    assert caught.value.exit_code == 5
    assert badmarks.reason(bench.layout, release.sha256) is None
    assert bench.install(release).result == "installed"


def test_number_of_a_generation_is_never_used_again(bench) -> None:
    bench.install(bench.release(1))
    bench.verdicts = {"check": "ill"}
    with pytest.raises(AgentError):
        bench.install(bench.release(2))
    bench.verdicts = {}
    assert bench.install(bench.release(3)).generation == 3


def test_generation_that_lost_a_file_is_none(bench) -> None:
    bench.install(bench.release(1))
    folder = bench.layout.generation(1)
    assert generations.read(folder) is not None
    (folder / "golden.npz").unlink()
    assert generations.read(folder) is None


def test_generation_with_another_manifest_is_none(bench) -> None:
    bench.install(bench.release(1))
    folder = bench.layout.generation(1)
    (folder / "manifest.json").write_bytes(bench.release(2).manifest)
    assert generations.read(folder) is None


def test_builder_that_found_the_disk_full_is_not_held_against_the_release(bench) -> None:
    release = bench.release(1)
    bench.verdicts = {"build": "OSError: [Errno 28] No space left on device"}
    with pytest.raises(AgentError, match="the disk is full") as caught:
        bench.install(release)
    assert caught.value.exit_code == 5
    assert badmarks.reason(bench.layout, release.sha256) is None
    bench.verdicts = {}
    assert bench.install(release).result == "installed"
