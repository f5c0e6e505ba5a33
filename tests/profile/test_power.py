import time

import numpy as np
import pytest

from edgekd.core.errors import DataError, PreconditionError
from edgekd.profile.power import PowerSample, energy_j, energy_of, total_rails
from edgekd.profile.rails import PowerSampler, find_rails, require_rails


def constant(watts, seconds=10, rail="VDD_IN"):
    return [PowerSample(float(second), {rail: watts}) for second in range(seconds + 1)]


def test_constant_power_times_time():
    energy = energy_of(constant(8.0), 2.0, 7.0, runs=1000, idle=constant(3.0, 4))
    assert energy.total.gross_mj == pytest.approx(8.0 * 5.0 / 1000 * 1e3)
    assert energy.total.net_mj == pytest.approx(5.0 * 5.0 / 1000 * 1e3)
    assert (energy.total.mean_w, energy.total.idle_w) == pytest.approx((8.0, 3.0))
    assert (energy.runs, energy.window_s, energy.samples, energy.total_is) == (1000, 5.0, 6, "VDD_IN")


def test_idle_power_that_was_not_measured_is_not_subtracted():
    energy = energy_of(constant(8.0), 0.0, 10.0, runs=10)
    assert (energy.total.idle_w, energy.total.net_mj) == (None, None)
    assert energy.total.gross_mj == pytest.approx(8000.0)


def test_integral_of_a_known_curve_over_a_part_of_it():
    times = np.sort(np.random.default_rng(0).uniform(0, 10, 4000))
    times[0], times[-1] = 0.0, 10.0
    watts = 3 + np.sin(times)
    exact = 3 * (7.7 - 1.3) - np.cos(7.7) + np.cos(1.3)
    assert energy_j(times, watts, 1.3, 7.7) == pytest.approx(exact, rel=1e-4)


def test_lines_between_samples_are_straight_at_the_ends_of_the_window():
    assert energy_j([0.0, 10.0], [0.0, 10.0], 4.0, 6.0) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["VDD_CPU_GPU_CV", "VDD_IN", "VDD_SOC"], ("VDD_IN",)),
        (["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"], ("VIN",)),
        (["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"], ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")),
        (["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"], ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
    ],
)
def test_total_is_the_input_rail_or_all_that_are_beside_each_other(names, chosen):
    assert total_rails(names) == chosen


def test_rails_are_added_where_there_is_no_input_rail():
    samples = [PowerSample(float(t), {"A": 1.0, "B": 2.0 + t, "VDDQ_VDD2_1V8AO": 9.0}) for t in range(3)]
    energy = energy_of(samples, 0.0, 2.0, runs=1)
    assert energy.total.gross_mj == pytest.approx((1 * 2 + 3 * 2) * 1e3)
    assert energy.total_is == "A + B"
    assert {rail.rail: round(rail.mean_w, 6) for rail in energy.rails} == {"A": 1.0, "B": 3.0, "VDDQ_VDD2_1V8AO": 9.0}


@pytest.mark.parametrize(
    ("samples", "window", "runs", "idle", "says"),
    [
        (constant(1.0), (0.0, 11.0), 5, (), "from 0 to 10 s, which does not cover the run from 0 to 11 s"),
        (constant(1.0), (-1.0, 5.0), 5, (), "does not cover"),
        (constant(1.0), (5.0, 5.0), 5, (), "is empty"),
        (constant(1.0), (0.0, 5.0), 0, (), "energy of 0 inferences"),
        (constant(1.0)[::-1], (0.0, 5.0), 5, (), "ascend strictly"),
        (constant(1.0), (0.0, 5.0), 5, constant(1.0, rail="VIN"), "others than those of the run: VDD_IN, VIN"),
        ([], (0.0, 5.0), 5, (), "no power samples"),
    ],
)
def test_what_cannot_be_integrated_is_refused(samples, window, runs, idle, says):
    with pytest.raises(DataError, match=says):
        energy_of(samples, *window, runs=runs, idle=idle)


@pytest.fixture
def board(tmp_path):
    files = {
        "hwmon0/name": "ina3221",
        "hwmon0/in1_label": "VDD_IN", "hwmon0/in1_input": "5000", "hwmon0/curr1_input": "1200",
        "hwmon0/in2_label": "VDD_SOC", "hwmon0/in2_input": "5000", "hwmon0/curr2_input": "300",
        "hwmon0/in3_label": "NC", "hwmon0/in3_input": "0", "hwmon0/curr3_input": "0",
        "hwmon0/in7_label": "sum of shunt voltages", "hwmon0/in7_input": "99", "hwmon0/curr4_input": "99",
        "hwmon1/name": "ina238",
        "hwmon1/in1_input": "20000", "hwmon1/curr1_input": "1", "hwmon1/power1_input": "15004000",
        "hwmon2/name": "pwmfan", "hwmon2/in1_label": "FAN", "hwmon2/in1_input": "1", "hwmon2/curr1_input": "1",
    }  # fmt: skip
    for name, content in files.items():
        path = tmp_path / "sys/class/hwmon" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return tmp_path


def test_rails_of_ina_chips_are_found_and_nothing_else(board):
    rails = find_rails(board)
    assert {rail.name: rail.read_w() for rail in rails} == {"VDD_IN": 6.0, "VDD_SOC": 1.5, "VIN": 15.004}


def test_a_machine_without_rails_says_so(tmp_path):
    assert find_rails(tmp_path) == ()
    with pytest.raises(PreconditionError, match="no INA power rails"):
        require_rails(tmp_path)


def test_a_sensor_that_stops_answering_is_an_error(board):
    rails = find_rails(board)
    (board / "sys/class/hwmon/hwmon0/in1_input").write_text("")
    with pytest.raises(PreconditionError, match="in1_input cannot be read"):
        rails[0].read_w()


def test_samples_cover_the_block_and_follow_the_sensor(board):
    current = board / "sys/class/hwmon/hwmon0/curr1_input"
    with PowerSampler(find_rails(board), interval_s=0.005) as sampler:
        start = time.perf_counter()
        time.sleep(0.1)
        current.write_text("2400\n")
        time.sleep(0.1)
        end = time.perf_counter()
    samples = sampler.samples
    assert samples[0].time_s <= start < end <= samples[-1].time_s
    assert (samples[0].rails_w["VDD_IN"], samples[-1].rails_w["VDD_IN"]) == (6.0, 12.0)
    assert energy_of(samples, start, end, runs=1).rails[0].mean_w == pytest.approx(9.0, rel=0.2)


def test_an_error_of_the_sampling_thread_reaches_the_caller(board):
    def measure():
        with PowerSampler(find_rails(board), interval_s=0.005):
            (board / "sys/class/hwmon/hwmon0/in1_input").write_text("")
            time.sleep(0.05)

    with pytest.raises(PreconditionError, match="cannot be read"):
        measure()
