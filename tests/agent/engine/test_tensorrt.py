"""Building and checking with TensorRT: a stand-in with the names of the true bindings, in real child processes."""

import json
import shutil
import subprocess
from pathlib import Path

import power_loss
import pytest
from edgekd_agent import generations, journal
from edgekd_agent.device import Settings, Site
from edgekd_agent.engine import facts, keys
from edgekd_agent.engine.shop import Shop
from edgekd_agent.errors import AgentError
from edgekd_agent.install import refresh, steps
from edgekd_agent.layout import Layout
from edgekd_agent.reader import parse_manifest
from models import Bundle, Recipe, bundle

HERE = Path(__file__).parent
FAKE = HERE.parents[1] / "engine" / "tensorrt" / "fake"


@pytest.fixture(scope="module")
def cuda(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is needed for the pretended CUDA driver")
    folder = tmp_path_factory.mktemp("cuda")
    command = [compiler, "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", HERE / "libcuda.c"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def board(tmp_path, cuda, monkeypatch):
    """A board whose Python has `tensorrt`; only its children see it."""

    class Board:
        layout = Layout(tmp_path / "device")
        site = Site(layout, Settings(reserve_mib=0))

        def set_version(self, version: str) -> None:
            monkeypatch.setenv("EDGEKD_TEST_FAKE_TENSORRT", version)
            self.layout.facts.unlink(missing_ok=True)

        def candidate(self, release: Bundle):
            power_loss.put_parts(self.layout.root, release)
            manifest = parse_manifest(release.manifest)
            return steps.candidate_of(self.site, release.manifest, release.sha256, manifest, Shop(self.site))

        def install(self, release: Bundle):
            return steps.install(self.site, self.candidate(release), Shop(self.site))

        def build_json(self) -> dict:
            return json.loads((self.layout.current / "engine" / "build.json").read_text())

    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cuda))
    found = Board()
    found.layout.root.mkdir()
    found.set_version("10.3")
    return found


def release(version: int = 1, **changes) -> Bundle:
    return bundle(Recipe(version, backend="tensorrt", **changes))


def test_facts_are_asked_of_the_libraries_once_for_each_start(board, monkeypatch) -> None:
    found = facts.gather(board.layout)
    assert (found["gpu"], found["sm"], found["cuda_driver"]) == ("Orin", 87, "12.6")
    assert found["tensorrt"].startswith("10.3")
    monkeypatch.setattr(facts, "_asked", lambda: pytest.fail("asked again"))
    assert facts.gather(board.layout) == found
    assert facts.remembered(board.layout) == found
    monkeypatch.setattr(facts, "boot_id", lambda: "another start")
    with pytest.raises(pytest.fail.Exception):
        facts.gather(board.layout)


def test_engine_is_built_here_checked_and_found_again(board) -> None:
    outcome = board.install(release())
    assert outcome.measured["metric"] < 1e-4
    assert set(outcome.measured["latency_ms"]) == {"p50", "p90", "p99", "mean"}
    assert len(outcome.measured["windows"]) == 3
    about = board.build_json()
    assert (about["backend"], about["source"]) == ("tensorrt", "built")
    assert about["facts"]["sm"] == 87
    assert about["plan"]["size_bytes"] == (board.layout.current / "engine" / "model.plan").stat().st_size
    assert about["versions"]["tensorrt"].startswith("10.3")
    assert about["peak_memory_bytes"] > 1 << 20
    (timing,) = board.layout.timing.iterdir()
    assert timing.name == f"{keys.timing_key(parse_manifest(release().manifest), about['facts'])}.cache"
    (log,) = board.layout.logs.glob("build-*.log")
    assert "a warning of the builder" in log.read_text()


def test_build_made_under_the_same_key_is_used_again(board) -> None:
    board.install(release())
    (log,) = board.layout.logs.glob("build-*.log")
    board.install(release(1, padding_bytes=10))
    assert generations.linked(board.layout.current).number == 2
    assert list(board.layout.logs.glob("build-*.log")) == [log]


def test_plan_that_changed_on_the_disk_is_not_loaded_but_built_again(board) -> None:
    board.install(release())
    plan = board.layout.current / "engine" / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    candidate = board.candidate(release())
    with pytest.raises(AgentError, match="not the plan that was built"):
        Shop(board.site).check(candidate, is_timed=False)
    board.install(release(1, padding_bytes=10))
    assert Shop(board.site).check(board.candidate(release(1, padding_bytes=10)), is_timed=False)["metric"] < 1e-4


def test_signed_engine_for_exactly_this_device_is_not_built(board) -> None:
    board.install(release())
    key, plan = board.build_json()["key"], (board.layout.current / "engine" / "model.plan").read_bytes()
    shutil.rmtree(board.layout.root)
    board.layout.root.mkdir()
    outcome = board.install(with_engine(key, plan))
    assert outcome.measured["metric"] < 1e-4
    assert board.build_json()["source"] == "bundle"
    assert not list(board.layout.logs.glob("build-*.log"))


def test_signed_engine_of_another_architecture_is_refused_by_the_check(board) -> None:
    key = board.candidate(release()).engine_key
    with pytest.raises(AgentError, match="another TensorRT or GPU") as caught:
        board.install(with_engine(key, b"plan of sm_72"))
    assert (caught.value.kind, caught.value.exit_code) == ("health", 3)
    assert generations.linked(board.layout.current) is None


def with_engine(key: str, plan: bytes) -> Bundle:
    made = release(1, extra={f"engines/{key}/model.plan": plan})
    document = json.loads(made.manifest)
    for number, item in enumerate(document["artifacts"]):
        item["role"] = f"r{number}"
    return Bundle(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), made.blobs)


def test_another_tensorrt_makes_another_engine_of_blobs_that_are_here(board) -> None:
    board.install(release())
    before = board.build_json()["key"]
    board.set_version("11.4")
    shop, running = Shop(board.site), generations.linked(board.layout.current)
    candidate = refresh.needed(board.site, running, shop)
    assert candidate is not None
    assert steps.install(board.site, candidate, shop).result == "installed"
    assert board.build_json()["key"] != before
    assert board.build_json()["versions"]["tensorrt"].startswith("11.4")
    assert refresh.needed(board.site, generations.linked(board.layout.current), shop) is None


def test_timing_cache_of_another_version_is_not_loaded(board) -> None:
    candidate = board.candidate(release())
    key = keys.timing_key(candidate.manifest, facts.gather(board.layout))
    board.layout.timing.mkdir()
    board.layout.timing_cache(key).write_bytes(b"of another version")
    board.install(release())
    assert board.layout.timing_cache(key).read_bytes().startswith(b"10.3")


def test_flag_that_this_tensorrt_lacks_is_named(board) -> None:
    made = release()
    document = json.loads(made.manifest)
    document["build"]["flags"] = ["WARP_DRIVE"]
    strange = Bundle(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), made.blobs)
    with pytest.raises(AgentError, match="no builder flag WARP_DRIVE"):
        board.install(strange)
    assert journal.read(board.layout.journal).records[-1].facts["kind"] == "build"


@pytest.mark.parametrize(("version", "is_strong", "flags"), [("8.6", False, []), ("10.3", True, ["TF32"])])
def test_typing_follows_what_the_version_offers(board, version, is_strong, flags) -> None:
    board.set_version(version)
    made = release()
    document = json.loads(made.manifest)
    document["build"].update(strongly_typed=is_strong, flags=flags)
    typed = Bundle(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), made.blobs)
    assert board.install(typed).result == "installed"


def test_strong_typing_that_cannot_be_had_is_an_error(board) -> None:
    board.set_version("8.6")
    made = release()
    document = json.loads(made.manifest)
    document["build"]["strongly_typed"] = True
    strong = Bundle(json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), made.blobs)
    with pytest.raises(AgentError, match="cannot be bound to the types"):
        board.install(strong)
