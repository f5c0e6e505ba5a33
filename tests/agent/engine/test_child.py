"""Parts of the agent in children with limits: whatever becomes of one is a result."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgekd_agent.engine import child

LIMITS = child.Limits(timeout_s=20.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Let the child run a line of Python in the place of a part."""

    def run_line(line: str, limits: child.Limits = LIMITS, **job) -> child.Ended:
        prelude = child._PRELUDE.replace(
            "from edgekd_agent.engine.part import main\nsys.exit(main(sys.argv[3]))",
            f"import json, signal, time\nfrom edgekd_agent.engine.child import write_result\n"
            f"from pathlib import Path\nhere = Path(sys.argv[3])\n{line}\n",
        )
        assert prelude != child._PRELUDE
        monkeypatch.setattr(child, "_PRELUDE", prelude)
        return child.run("build", job, folder=tmp_path / "work", log=tmp_path / "logs" / "build.log", limits=limits)

    return run_line


def _ends(pid: str) -> bool:
    """Whether a process that was killed ends within 10 s: a signal arrives when its process is next scheduled."""
    for _ in range(500):
        if not _runs(pid):
            return True
        time.sleep(0.02)
    return False


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_result_of_a_child_comes_back(run, tmp_path) -> None:
    ended = run("write_result(here, {'result': {'n': json.loads((here / 'job.json').read_text())['n']}})", n=3)
    assert (ended.ending, ended.message, ended.result["n"]) == ("done", "", 3)
    assert ended.peak_memory_bytes > 1 << 20
    assert ended.seconds > 0


@pytest.mark.parametrize(
    ("line", "ending", "words"),
    [
        ("os.abort()", "crash", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crash", "SIGSEGV"),
        ("sys.exit(7)", "crash", "exit status 7"),
        ("pass", "crash", "exit status 0"),
        ("os.kill(os.getpid(), 9)", "out_of_memory", "killed, most likely by the kernel"),
        ("print('std::bad_alloc'); sys.exit(1)", "out_of_memory", "ran out of memory"),
        ("write_result(here, {'refusal': 'no such operator', 'kind': 'build'}); sys.exit(1)", "refused", "no such op"),
        ("(here / 'result.json').write_text('half'); sys.exit(0)", "crash", "exit status 0"),
    ],
)
def test_every_other_end_is_named(run, line, ending, words) -> None:
    ended = run(line)
    assert ended.ending == ending
    assert words in ended.message
    assert ended.result == {}


def test_child_that_takes_too_long_is_ended_with_all_it_started(run, tmp_path) -> None:
    line = "import subprocess; p = subprocess.Popen(['sleep', '60'])\n"
    line += "(here / 'pid').write_text(str(p.pid)); time.sleep(60)"
    ended = run(line, child.Limits(timeout_s=4.0))
    assert ended.ending == "timeout"
    assert "longer than 4 s" in ended.message
    assert _ends((tmp_path / "work" / "pid").read_text())


def test_child_that_takes_too_much_memory_is_ended(run) -> None:
    line = "x = []\nwhile True: x.append(bytearray(8 << 20)); time.sleep(0.02)"
    ended = run(line, child.Limits(timeout_s=20.0, memory_bytes=100 << 20))
    assert ended.ending == "out_of_memory"
    assert 100 << 20 < ended.peak_memory_bytes < 400 << 20


def test_memory_that_it_may_not_even_reserve_is_refused_by_the_kernel(run) -> None:
    ended = run("bytearray(600 << 20)", child.Limits(timeout_s=20.0, data_bytes=300 << 20))
    assert ended.ending == "out_of_memory"
    assert "MemoryError" in ended.log


def test_limits_hold_in_the_child(run) -> None:
    line = (
        "write_result(here, {'result': {'nice': os.nice(0), 'core': resource.getrlimit(resource.RLIMIT_CORE),"
        " 'cwd': os.getcwd(), 'files': os.listdir('/proc/self/fd')}})"
    )
    found = run(line, child.Limits(timeout_s=20.0, nice=3)).result
    assert found["nice"] >= 3
    assert found["core"] == [0, 0]
    assert found["cwd"].endswith("/work")
    assert len(found["files"]) <= 5


def test_child_dies_with_the_agent(tmp_path) -> None:
    """The agent is killed: its child must not go on building."""
    script = tmp_path / "agent.py"
    script.write_text(
        "import sys, os, signal, threading, time\n"
        "from pathlib import Path\n"
        "from edgekd_agent.engine import child\n"
        "child._PRELUDE = child._PRELUDE.replace('from edgekd_agent.engine.part import main\\n"
        "sys.exit(main(sys.argv[3]))', \"open('pid', 'w').write(str(os.getpid())); import time; time.sleep(60)\")\n"
        "def end():\n"
        "    while not Path(sys.argv[1], 'work', 'pid').exists() or not Path(sys.argv[1], 'work', 'pid').read_text():\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Thread(target=end).start()\n"
        "place = Path(sys.argv[1])\n"
        "child.run('build', {}, folder=place / 'work', log=place / 'logs' / 'l', limits=child.Limits(60.0))\n"
    )
    environment = {"PYTHONPATH": str(child.program_path()), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, str(script), str(tmp_path)], env=environment, check=False, capture_output=True)
    assert _ends((tmp_path / "work" / "pid").read_text())


def test_left_overs_of_the_last_child_are_gone(run, tmp_path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "result.json").write_text(json.dumps({"result": {"old": 1}}))
    assert run("pass").ending == "crash"
