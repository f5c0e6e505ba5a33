import asyncio
import json
import random
import subprocess
import threading
import tracemalloc

import pytest

from edgekd.core.errors import StorageError, TargetError
from edgekd.ship.transport import AgentPlace, Need, SshTransport
from edgekd.ship.transport.session import BLOCK_BYTES
from edgekd.targets.ssh_connection import SshKeys, Unreachable
from tools.reliability.wire import Trouble

MIB = 1 << 20


def push(bench, blob, need, report=lambda done, total: None, **pauses):
    async def work():
        async with bench.session(**pauses) as session:
            await session.push(blob, need, report)
            return session.resumed

    return asyncio.run(work())


def ask(bench, *words):
    async def work():
        async with bench.session() as session:
            return await session.agent(*words)

    return asyncio.run(work())


def test_the_agent_is_asked_and_answers(bench):
    answer = ask(bench, "hello")
    assert answer.exit_code == 0
    assert answer.document["device_id"] == "orin-1"


def test_words_reach_the_agent_as_they_are(bench):
    owner = 'a\'b "c" $(touch /tmp/edgekd-quoted); d'
    ask(bench, "lock", "--owner", owner)
    assert json.loads((bench.root / "operator").read_text())["owner"] == owner


def test_a_refusal_is_an_answer_with_its_exit_code(bench):
    ask(bench, "lock", "--owner", "bob")
    answer = ask(bench, "lock", "--owner", "ann")
    assert answer.exit_code == 1
    assert "bob" in answer.document["error"]["message"]


def test_aes_gcm_is_what_is_spoken(bench):
    async def work():
        async with bench.session() as session:
            connection = session._line._connection
            return connection.get_extra_info("send_cipher")

    assert asyncio.run(work()) == "aes128-gcm@openssh.com"


@pytest.mark.parametrize("size_bytes", [0, 1, 100_000, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 7])
def test_a_blob_arrives_whole(bench, make_blob, size_bytes):
    sha256, blob = make_blob(size_bytes)
    seen = []
    push(bench, blob, Need(sha256, size_bytes), lambda done, total: seen.append((done, total)))
    assert bench.part(sha256).read_bytes() == blob.read_bytes()
    assert seen[-1] == (size_bytes, size_bytes)
    assert seen == sorted(seen)


def test_it_goes_on_behind_the_blocks_that_agree(bench, make_blob):
    sha256, blob = make_blob(3 * BLOCK_BYTES)
    content = blob.read_bytes()
    bench.part(sha256).write_bytes(content[: BLOCK_BYTES + 1000])
    bench.want({sha256: blob})
    blocks = ask(bench, "want").document["missing"][0]["blocks"]
    sent = bench.wire.bytes_sent
    assert push(bench, blob, Need(sha256, len(content), tuple(blocks))) == [(sha256, BLOCK_BYTES)]
    assert bench.part(sha256).read_bytes() == content
    assert bench.wire.bytes_sent - sent < 2.1 * BLOCK_BYTES


def test_a_block_that_does_not_agree_is_sent_again_with_what_follows(bench, make_blob):
    sha256, blob = make_blob(3 * BLOCK_BYTES)
    content = blob.read_bytes()
    damaged = bytearray(content[: 2 * BLOCK_BYTES])
    damaged[BLOCK_BYTES + 5] ^= 1
    bench.part(sha256).write_bytes(damaged)
    bench.want({sha256: blob})
    blocks = tuple(ask(bench, "want").document["missing"][0]["blocks"])
    assert len(blocks) == 2
    assert push(bench, blob, Need(sha256, len(content), blocks)) == [(sha256, BLOCK_BYTES)]
    assert bench.part(sha256).read_bytes() == content


def test_what_is_longer_than_the_blob_is_cut(bench, make_blob):
    sha256, blob = make_blob(1000)
    bench.part(sha256).write_bytes(b"x" * 5000)
    push(bench, blob, Need(sha256, 1000))
    assert bench.part(sha256).read_bytes() == blob.read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_cut_at_random_it_resumes_with_at_most_one_block_sent_twice(bench, make_blob, seed):
    sha256, blob = make_blob(2 * BLOCK_BYTES + 12345, seed)
    size_bytes = blob.stat().st_size
    bench.want({sha256: blob})
    bench.wire.trouble.cut_after_bytes = random.Random(seed).randrange(20_000, size_bytes)
    resumed = push(bench, blob, Need(sha256, size_bytes))
    assert bench.wire.cuts >= 1
    assert bench.part(sha256).read_bytes() == blob.read_bytes()
    held = [int(line) for line in bench.part(sha256).with_suffix(".sizes").read_text().split()]
    starts = [start for _, start in resumed[-len(held) :]]
    assert all(0 <= there - start < BLOCK_BYTES for there, start in zip(held, starts, strict=True))
    assert bench.wire.bytes_sent < size_bytes + BLOCK_BYTES * len(held) + 5 * MIB


def test_a_cut_while_the_agent_answers_is_no_error(bench):
    bench.wire.trouble.cut_after_bytes = 4500
    assert ask(bench, "hello").exit_code == 0


def test_a_stall_is_waited_for(bench, make_blob):
    sha256, blob = make_blob(2 * MIB)
    bench.wire.trouble = Trouble(stall_after_bytes=MIB, stall_s=1.5)
    push(bench, blob, Need(sha256, 2 * MIB))
    assert bench.wire.connections == 1
    assert bench.part(sha256).read_bytes() == blob.read_bytes()


def test_a_stall_without_end_is_given_up_and_resumed(bench, make_blob, monkeypatch):
    monkeypatch.setattr("edgekd.ship.transport.push.STALL_S", 1.0)
    sha256, blob = make_blob(2 * MIB)
    bench.want({sha256: blob})
    bench.wire.trouble = Trouble(stall_after_bytes=MIB, stall_s=30)
    push(bench, blob, Need(sha256, 2 * MIB))
    assert bench.wire.connections == 2
    assert bench.part(sha256).read_bytes() == blob.read_bytes()


def test_a_link_at_20_kb_a_second_is_slow_but_one_connection(bench, make_blob):
    sha256, blob = make_blob(80_000)
    bench.wire.trouble.bytes_per_s = 20_000
    push(bench, blob, Need(sha256, 80_000))
    assert bench.wire.connections == 1
    assert bench.part(sha256).read_bytes() == blob.read_bytes()


def test_a_device_that_is_gone_is_given_up(bench, make_blob):
    sha256, blob = make_blob(4 * MIB)
    bench.want({sha256: blob})
    bench.wire.trouble = Trouble(cut_after_bytes=MIB)

    def gone(done, total):
        bench.wire.trouble.is_down = True

    with pytest.raises(Unreachable, match="has not answered for .* the same command finds"):
        push(bench, blob, Need(sha256, 4 * MIB), gone, give_up_s=0.5)
    assert any("next try" in note for note in bench.notes)


def test_it_comes_back_when_the_device_does(bench, make_blob):
    sha256, blob = make_blob(4 * MIB)
    bench.want({sha256: blob})
    bench.wire.trouble = Trouble(cut_after_bytes=MIB)

    def gone(done, total):
        if bench.wire.connections == 1 and not bench.wire.trouble.is_down:
            bench.wire.trouble.is_down = True
            threading.Timer(1.0, lambda: setattr(bench.wire.trouble, "is_down", False)).start()

    push(bench, blob, Need(sha256, 4 * MIB), gone)
    assert bench.part(sha256).read_bytes() == blob.read_bytes()
    assert any("connected again" in note for note in bench.notes)


def test_memory_does_not_grow_with_the_blob(bench, make_blob):
    sha256, blob = make_blob(48 * MIB)
    tracemalloc.start()
    push(bench, blob, Need(sha256, 48 * MIB))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB


def test_metadata_is_replaced_whole(bench, tmp_path):
    (tmp_path / "new.json").write_text('{"version": 2}')
    target = bench.root / "staging" / "metadata" / "timestamp.json"
    target.write_text('{"version": 1, "longer": "than the new one"}')

    async def work():
        async with bench.session() as session:
            await session.put_metadata({"timestamp.json": tmp_path / "new.json"})

    asyncio.run(work())
    assert target.read_text() == '{"version": 2}'
    assert [path.name for path in target.parent.iterdir()] == ["timestamp.json"]


@pytest.mark.parametrize("name", ["../trust/root.json", "/etc/passwd", "a/b.json", "..", ""])
def test_a_name_that_leaves_staging_is_refused(bench, tmp_path, name):
    (tmp_path / "new.json").write_text("{}")

    async def work():
        async with bench.session() as session:
            await session.put_metadata({name: tmp_path / "new.json"})

    with pytest.raises(TargetError, match="no plain file name"):
        asyncio.run(work())


def test_a_device_without_staging_says_so(bench, make_blob):
    sha256, blob = make_blob(1000)
    (bench.root / "staging" / "blobs").rmdir()
    with pytest.raises(TargetError, match="refuses .*staging is there"):
        push(bench, blob, Need(sha256, 1000))


def test_a_full_disk_says_so(bench, make_blob, no_space):
    sha256, blob = make_blob(4 * MIB)
    place = bench.root / "staging" / "blobs"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        with pytest.raises(TargetError, match="has space"):
            push(bench, blob, Need(sha256, 4 * MIB))
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_blob_of_another_length_is_the_repositorys_fault(bench, make_blob):
    sha256, blob = make_blob(1000)
    with pytest.raises(StorageError, match="the repository is damaged"):
        push(bench, blob, Need(sha256, 1001))


def test_a_file_that_is_missing_here_is_no_drop(bench, make_blob, tmp_path):
    sha256, blob = make_blob(1000)
    blob.unlink()
    with pytest.raises(StorageError, match="the repository is damaged"):
        push(bench, blob, Need(sha256, 1000))

    async def work():
        async with bench.session() as session:
            await session.put_metadata({"timestamp.json": tmp_path / "missing.json"})

    with pytest.raises(StorageError, match="the repository is damaged"):
        asyncio.run(work())
    assert bench.notes == []


def with_place(bench, *command):
    transport = SshTransport(bench.server.keys(bench.wire.port), AgentPlace(command=command, root=str(bench.root)))

    async def work():
        async with transport.session(bench.address, bench.notes.append) as session:
            return await session.agent("hello")

    return asyncio.run(work())


def test_a_device_without_agent_says_how_to_get_it(bench):
    with pytest.raises(TargetError, match="has no agent .*edgekd fleet provision"):
        with_place(bench, "/opt/edgekd/missing")


@pytest.mark.parametrize("printed", ["", "hello", "[1, 2]", '{"a": '])
def test_an_agent_that_prints_no_document_is_an_error(bench, printed):
    with pytest.raises(TargetError, match="agent"):
        with_place(bench, "python3", "-c", f"print({printed!r})")


def test_a_greeting_before_the_document_does_not_matter(bench):
    text = 'Welcome to the board\n{"device_id": "x"}'
    assert with_place(bench, "python3", "-c", f"print({text!r})").document == {"device_id": "x"}


def test_an_agent_that_prints_without_end_is_cut_off(bench):
    with pytest.raises(TargetError, match="prints more than"):
        with_place(bench, "python3", "-c", "while True: print('x' * 100000)")


def test_nothing_listens_there(bench):
    bench.wire.trouble.is_down = True
    with pytest.raises(Unreachable):
        ask(bench, "hello")


def test_another_host_key_is_refused(bench, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{bench.wire.port} {(tmp_path / 'other.pub').read_text()}")
    transport = SshTransport(SshKeys(known, bench.server.folder / "user"), bench.place)

    async def work():
        async with transport.session(bench.address, bench.notes.append):
            pass

    with pytest.raises(TargetError, match="HAS CHANGED"):
        asyncio.run(work())
