import os
import time
from pathlib import Path

import pytest

from edgekd.profile import FakeHost, SystemHost


def write(root: Path, files: dict[str, str]) -> SystemHost:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return SystemHost(root)


def test_a_pc_is_read(tmp_path):
    first = "processor\t: 0\nmodel name\t: Good CPU @ 2GHz\ncpu MHz\t\t: 2000.5\n"
    cpuinfo = f"{first}\nmodel name\t: Good CPU\ncpu MHz\t\t: 1000.5\n"
    governor = {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n"}
    state = write(tmp_path, {"proc/cpuinfo": cpuinfo, **governor}).state()
    assert (state.cpu_model, state.governor, state.clock_mhz) == ("Good CPU @ 2GHz", "schedutil", 1500.5)
    assert state.logical_cpus == len(os.sched_getaffinity(0))
    assert state.load_1min == pytest.approx(os.getloadavg()[0], abs=0.5)


def test_a_board_without_clock_in_cpuinfo_is_read_from_cpufreq(tmp_path):
    files = {
        f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_cur_freq": f"{khz}\n" for i, khz in ((0, 729600), (1, 1510400))
    }
    state = write(tmp_path, {"proc/cpuinfo": "Model\t\t: A board\nCPU part\t: 0xd42\n", **files}).state()
    assert (state.cpu_model, state.clock_mhz, state.governor) == ("A board", 1120.0, "unknown")


def test_a_machine_that_tells_nothing_is_unknown_not_invented(tmp_path):
    state = SystemHost(tmp_path).state()
    assert (state.governor, state.clock_mhz) == ("unknown", None)
    assert state.cpu_model


def test_system_clock_runs_in_nanoseconds():
    host = SystemHost()
    start = host.now_ns()
    time.sleep(0.01)
    assert 10_000_000 <= host.now_ns() - start < 2_000_000_000


def test_fake_clock_moves_only_when_told():
    host = FakeHost()
    assert host.now_ns() == host.now_ns() == 0
    host.advance_ms(1.5)
    assert host.now_ns() == 1_500_000


def test_heat_throttling_memory_and_an_integrated_gpu_are_read(tmp_path):
    files = {
        "sys/class/thermal/thermal_zone0/temp": "47875\n",
        "sys/class/thermal/thermal_zone1/temp": "62906\n",
        "sys/class/thermal/thermal_zone2/temp": "off\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
        "sys/class/devfreq/15340000.vic/cur_freq": "9900000000\n",
        "proc/self/status": "Name:\tpython\nVmHWM:\t  200000 kB\nVmRSS:\t  100000 kB\n",
    }
    state = write(tmp_path, files).state()
    assert (state.temperature_c, state.throttle_events, state.gpu_clock_mhz) == (62.9, 7, 1300.5)
    assert (state.resident_mb, state.peak_resident_mb) == (102.4, 204.8)


def test_this_process_tells_its_memory():
    state = SystemHost().state()
    assert 1 < state.resident_mb <= state.peak_resident_mb


def test_cpus_that_work_for_others_are_counted_while_this_process_sleeps(tmp_path, monkeypatch):
    mine = sorted(os.sched_getaffinity(0))[:1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*mine, 900})

    def stat(*ticks):
        rows = [("cpu", ticks[0]), (f"cpu{mine[0]}", ticks[0]), ("cpu900", ticks[1]), ("cpu901", ticks[2])]
        return "".join(f"{name} {' '.join(map(str, row))}\n" for name, row in rows) + "intr 5\n"

    host = write(tmp_path, {"proc/stat": stat([0] * 10, [9] * 10, [0] * 10)})
    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest nice: 12 of 20 ticks idle, then none of 20
    later = stat([6, 1, 0, 10, 2, 0, 0, 1, 6, 0], [19, 9, 9, 9, 9, 9, 9, 19, 9, 9], [50, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / "proc/stat").write_text(later))
    assert host.state().busy_cpus == pytest.approx(8 / 20 + 1)


def test_this_machine_says_how_busy_it_is():
    assert 0 <= SystemHost().state().busy_cpus <= len(os.sched_getaffinity(0))
