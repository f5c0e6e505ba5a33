import dataclasses
import fcntl
import hashlib
import itertools
import json
import threading

import pytest

from edgekd.core.errors import StorageError
from edgekd.ship.fleet.audit import HEAD_NAME, LOG_NAME, AuditLog, Record

RECORD = Record("device", "ann@desk", "line-1", "d1", "line", "ab" * 32, "net 1", "net 2", "installed", "", 12.5)


def filled(folder, count=6):
    log = AuditLog(folder)
    for number in range(count):
        log.append(dataclasses.replace(RECORD, device_id=f"d{number}"))
    return log


def lines(folder):
    return (folder / LOG_NAME).read_bytes().splitlines(keepends=True)


def write(folder, content):
    (folder / LOG_NAME).write_bytes(b"".join(content))


def resealed(line, **changes):
    """Alter a record and give it the digest that its new content has, as a careful forger would."""
    document = {**json.loads(line), **changes}
    document.pop("sha256")
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(document).encode() + b"\n"


def test_a_chain_is_whole_and_each_record_names_the_one_before(tmp_path):
    verdict = filled(tmp_path).verify()
    assert verdict.is_whole
    assert verdict.records == 6
    found = lines(tmp_path)
    for before, line in itertools.pairwise(found):
        assert json.loads(line)["previous"] == hashlib.sha256(before.rstrip(b"\n")).hexdigest()
    assert verdict.head == hashlib.sha256(found[-1].rstrip(b"\n")).hexdigest()


def test_a_record_that_is_nested_without_end_is_named(tmp_path):
    log, found = filled(tmp_path), lines(tmp_path)
    write(tmp_path, [*found[:5], b'{"a":' * 100_000 + b"\n"])
    assert log.verify().broken_at == 6
    assert len(log.read()) == 5
    log.append(RECORD)
    assert log.verify().broken_at == 6


def test_an_empty_log_is_whole(tmp_path):
    assert AuditLog(tmp_path).verify().is_whole


@pytest.mark.parametrize("number", range(6))
def test_an_altered_record_is_named(tmp_path, number):
    log, found = filled(tmp_path), lines(tmp_path)
    found[number] = found[number].replace(b'"installed"', b'"failed"')
    write(tmp_path, found)
    verdict = log.verify()
    assert verdict.broken_at == number + 1
    assert "altered" in verdict.problem


@pytest.mark.parametrize("number", range(5))
def test_a_record_that_was_altered_and_resealed_breaks_the_next(tmp_path, number):
    log, found = filled(tmp_path), lines(tmp_path)
    found[number] = resealed(found[number], result="failed")
    write(tmp_path, found)
    verdict = log.verify()
    assert verdict.broken_at == number + 2
    assert "follow" in verdict.problem


def test_the_last_record_altered_and_resealed_is_found_by_the_kept_end(tmp_path):
    log, found = filled(tmp_path), lines(tmp_path)
    write(tmp_path, [*found[:-1], resealed(found[-1], result="failed")])
    assert not log.verify().is_whole


@pytest.mark.parametrize("number", range(6))
def test_a_removed_record_is_noticed(tmp_path, number):
    log, found = filled(tmp_path), lines(tmp_path)
    del found[number]
    write(tmp_path, found)
    assert log.verify().broken_at == number + 1


def test_swapped_and_doubled_records_are_noticed(tmp_path):
    log, found = filled(tmp_path), lines(tmp_path)
    write(tmp_path, [found[0], found[2], found[1], *found[3:]])
    assert log.verify().broken_at == 2
    write(tmp_path, [*found[:3], found[2], *found[3:]])
    assert log.verify().broken_at == 4


def test_every_flipped_byte_is_noticed(tmp_path):
    log = filled(tmp_path, 2)
    content = (tmp_path / LOG_NAME).read_bytes()
    for place in range(len(content)):
        (tmp_path / LOG_NAME).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not log.verify().is_whole, place


def test_a_log_cut_off_at_its_end_is_noticed_by_its_head_or_one_noted_elsewhere(tmp_path):
    log, found = filled(tmp_path), lines(tmp_path)
    noted = log.verify().head
    write(tmp_path, found[:-2])
    assert log.verify().broken_at == 5
    (tmp_path / HEAD_NAME).write_text(json.dumps({"sha256": hashlib.sha256(found[3].rstrip(b"\n")).hexdigest()}))
    assert log.verify().is_whole, "its own head was forged too"
    assert not log.verify(noted).is_whole


def test_a_missing_head_is_no_clean_bill(tmp_path):
    log = filled(tmp_path)
    (tmp_path / HEAD_NAME).unlink()
    assert not log.verify().is_whole


def test_a_crash_between_record_and_head_is_no_break(tmp_path):
    log = filled(tmp_path, 3)
    head = (tmp_path / HEAD_NAME).read_text()
    log.append(RECORD)
    (tmp_path / HEAD_NAME).write_text(head)
    assert log.verify().is_whole


@pytest.mark.parametrize("kept", [1, 40, 300])
def test_a_torn_last_line_is_put_aside_and_the_chain_goes_on(tmp_path, kept):
    log, found = filled(tmp_path, 4), lines(tmp_path)
    (tmp_path / HEAD_NAME).write_text(json.dumps({"sha256": hashlib.sha256(found[2].rstrip(b"\n")).hexdigest()}))
    write(tmp_path, [*found[:3], found[3][:kept]])
    assert log.verify().is_whole, "a torn line was never acknowledged"
    log.append(RECORD)
    assert log.verify().is_whole
    assert log.verify().records == 4
    assert [path.read_bytes() for path in tmp_path.glob(f"{LOG_NAME}.torn-*")] == [found[3][:kept]]


def test_appending_after_damage_does_not_hide_it(tmp_path):
    log, found = filled(tmp_path, 3), lines(tmp_path)
    write(tmp_path, [found[0], b"rubbish\n"])
    log.append(RECORD)
    assert log.verify().broken_at == 2


def test_a_record_that_was_left_out_shows_although_all_behind_it_was_resealed(tmp_path):
    log, found = filled(tmp_path), lines(tmp_path)
    forged = found[:2]
    for line in found[3:]:
        forged.append(resealed(line, previous=hashlib.sha256(forged[-1].rstrip(b"\n")).hexdigest()))
    write(tmp_path, forged)
    (tmp_path / HEAD_NAME).write_text(json.dumps({"sha256": hashlib.sha256(forged[-1].rstrip(b"\n")).hexdigest()}))
    verdict = log.verify()
    assert verdict.broken_at == 3
    assert "says it is record 4" in verdict.problem


def test_an_append_waits_for_the_one_of_another_process(tmp_path):
    log = filled(tmp_path, 1)
    with open(tmp_path / LOG_NAME, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=log.append, args=(RECORD,))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert log.verify().records == 1
    waiting.join(30)
    assert log.verify().records == 2
    assert log.verify().is_whole


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"audit\.jsonl"):
        AuditLog(tmp_path / "file").append(RECORD)
