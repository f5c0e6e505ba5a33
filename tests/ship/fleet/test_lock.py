import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from edgekd.ship.fleet.lock import LOCK_NAME, FleetLocked, break_lock, fleet_lock, holder_of, in_words

HOLD = """
import sys, time
from pathlib import Path
from edgekd.ship.fleet.lock import fleet_lock
with fleet_lock(Path(sys.argv[1]), "bob@lab", "fleet deploy"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process of another operator that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_two_operators_cannot_work_at_once(tmp_path, other):
    with (
        pytest.raises(FleetLocked, match=r"bob@lab on .* \(fleet deploy\), for \d s, which runs"),
        fleet_lock(tmp_path, "ann@desk", "fleet deploy"),
    ):
        pass
    with pytest.raises(FleetLocked, match="bob@lab"):
        break_lock(tmp_path)


def test_neither_can_one_operator_twice(tmp_path):
    again = fleet_lock(tmp_path, "ann@desk", "fleet rollback")
    with fleet_lock(tmp_path, "ann@desk", "fleet deploy"), pytest.raises(FleetLocked), again:
        pass


def test_a_killed_command_leaves_no_lock_behind(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder_of(tmp_path).owner == "bob@lab"
    with fleet_lock(tmp_path, "ann@desk", "fleet deploy"):
        assert holder_of(tmp_path).owner == "ann@desk"
    assert holder_of(tmp_path) is None


def elsewhere(tmp_path, owner="bob@lab", hours=3):
    since = (datetime.now(timezone.utc) - timedelta(hours=hours)).isoformat()
    document = {"schema_version": 1, "owner": owner, "since": since, "host": "lab-7", "what": "fleet deploy"}
    (tmp_path / LOCK_NAME).write_text(json.dumps(document))


def test_a_lock_of_another_machine_is_believed_until_it_is_broken(tmp_path):
    elsewhere(tmp_path)
    with (
        pytest.raises(FleetLocked, match="bob@lab on lab-7.*for 3 h.*unlock"),
        fleet_lock(tmp_path, "ann@desk", "fleet deploy"),
    ):
        pass
    assert break_lock(tmp_path).owner == "bob@lab"
    with fleet_lock(tmp_path, "ann@desk", "fleet deploy"):
        pass


def test_ones_own_lock_of_another_machine_is_taken_over(tmp_path):
    elsewhere(tmp_path, "ann@desk")
    with fleet_lock(tmp_path, "ann@desk", "fleet deploy"):
        pass


def test_a_lock_that_cannot_be_read_is_not_taken_as_free(tmp_path):
    (tmp_path / LOCK_NAME).write_text("{")
    with pytest.raises(FleetLocked, match="unlock"), fleet_lock(tmp_path, "ann@desk", "fleet deploy"):
        pass


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="x"), fleet_lock(tmp_path, "ann@desk", "fleet deploy"):
        raise ValueError("x")
    assert holder_of(tmp_path) is None
    assert break_lock(tmp_path) is None


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (600, "10 min"), (7200, "2 h"), (864000, "10 days")])
def test_ages_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_file_is_not_run_over_by_a_failed_try(tmp_path, other):
    before = (tmp_path / LOCK_NAME).read_bytes()
    with pytest.raises(FleetLocked), fleet_lock(tmp_path, "ann@desk", "x"):
        pass
    assert (tmp_path / LOCK_NAME).read_bytes() == before
    assert os.path.exists(tmp_path / LOCK_NAME)
