"""Small slices of the experiments on network and fleet; the whole ones are run by hand."""

import importlib
import os

import pytest

from tools.reliability import fleet_simulation, intrusions, namespaces, network_cuts, ssh_server, throughput
from tools.reliability.wire import Trouble

pytest.importorskip("asyncssh")
pytest.importorskip("tuf")
needs_ssh = pytest.mark.skipif(bool(ssh_server.unavailable()), reason=ssh_server.unavailable() or "-")


def test_fleets_halt_as_configured_and_lose_no_device(tmp_path):
    figures = fleet_simulation.run(tmp_path, devices=40, seeds=1, share_percent=10)
    assert figures["problems"] == ""
    assert (figures["failures"], figures["lost"]) == (0, 0)
    assert (figures["halted"], figures["installed"], figures["offline"], figures["converged"]) == (1, 28, 4, 8)


def test_the_simulation_notices_halt_rules_that_do_not_work(tmp_path, monkeypatch):
    module = importlib.import_module("edgekd.ship.fleet.deploy")  # the package has a function of that name
    monkeypatch.setattr(module, "halt_reason", lambda *args, **counts: "")
    assert fleet_simulation.run(tmp_path, devices=40, seeds=1, share_percent=10)["failures"] == 1


@needs_ssh
def test_pushes_that_are_cut_resume_with_at_most_one_block_sent_twice(tmp_path):
    figures = network_cuts.run(tmp_path, cuts=2, mib=10)
    assert figures["failures"] == 0
    assert figures["connections"] == 4
    assert figures["largest_resent_bytes"] <= figures["block_bytes"]


@needs_ssh
def test_the_experiment_notices_a_push_that_starts_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekd.ship.transport.push.agreeing_bytes", lambda blob, blocks: 0)
    late = Trouble(cut_after_bytes=20 << 20)
    monkeypatch.setattr(network_cuts, "_trouble", lambda number, size_bytes, chance: late)
    assert network_cuts.run(tmp_path, cuts=1, mib=24)["failures"] == 1


@needs_ssh
def test_push_and_scp_are_measured_in_one_run(tmp_path):
    figures = throughput.run(tmp_path, mib=2, rounds=1)
    assert figures["push_mib_s"] > 0
    assert figures["share_of_scp"] == pytest.approx(figures["push_mib_s"] / figures["scp_mib_s"], rel=0.1)


@pytest.mark.slow
@pytest.mark.skipif(
    "EDGEKD_TEST_NAMESPACES" not in os.environ, reason="takes minutes; EDGEKD_TEST_NAMESPACES=1 runs it"
)
@pytest.mark.skipif(bool(namespaces.unavailable()), reason=namespaces.unavailable() or "-")
def test_devices_in_namespaces_are_provisioned_deployed_to_and_rolled_back(tmp_path):
    figures = namespaces.run(tmp_path, devices=1)
    assert figures["failures"] == 0, figures
    assert figures["cables_pulled"] == 1


@pytest.mark.slow
@pytest.mark.skipif(
    "EDGEKD_TEST_NAMESPACES" not in os.environ, reason="takes minutes; EDGEKD_TEST_NAMESPACES=1 runs it"
)
@pytest.mark.skipif(bool(namespaces.unavailable()), reason=namespaces.unavailable() or "-")
def test_the_operators_key_is_good_for_pushing_and_asking_alone(tmp_path):
    figures = intrusions.run(tmp_path)
    assert figures["failures"] == []
    assert figures["tried"] > 200
