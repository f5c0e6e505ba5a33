"""What a board measured, from files made by hand in its formats (see test_trtexec.py and test_tegrastats.py)."""

import itertools
import json

import pytest

from edgekd.core.errors import ConfigError, DataError
from edgekd.profile import BoardFiles, chrome_trace, profile_from_board


def times(count=400, period=2.5, compute=2.0, enqueue=0.1):
    rows = []
    for index in range(count):
        start = index * period
        rows.append(
            {
                "startEnqMs": start, "endEnqMs": start + enqueue, "startH2dMs": start, "endH2dMs": start + 0.1,
                "startComputeMs": start + 0.1, "endComputeMs": start + 0.1 + compute,
                "startD2hMs": start + 0.1 + compute, "endD2hMs": start + 0.2 + compute,
                "h2dMs": 0.1, "computeMs": compute, "d2hMs": 0.1, "latencyMs": compute + 0.2 + index % 2 * 0.01,
            }
        )  # fmt: skip
    return rows


LAYERS = [
    {"count": 400},
    {"name": "a/Conv + a/Relu", "timeMs": 600.0, "averageMs": 1.5, "medianMs": 1.5, "percentage": 75.0},
    {"name": "fc/Gemm", "timeMs": 200.0, "averageMs": 0.5, "medianMs": 0.5, "percentage": 25.0},
]


def log(watts, seconds, gpu_mhz=1300):
    return "".join(
        f"07-14-2026 10:00:{second:02} RAM {2000 + second}/7620MB (lfb 1x4MB) CPU [9%@1510] GR3D_FREQ 99%@[{gpu_mhz}] "
        f"gpu@{50 + second}C VDD_IN {watts * 1000}mW/1mW VDD_SOC 100mW/1mW\n"
        for second in range(seconds)
    )


@pytest.fixture
def write(tmp_path):
    def write(**files):
        paths = {}
        for name, content in files.items():
            paths[name] = tmp_path / f"{name}.txt"
            paths[name].write_text(content if isinstance(content, str) else json.dumps(content))
        return paths

    return write


def imported(files, **options):
    return profile_from_board(files, model="net.onnx", target="jetson-orin", precision="fp16", batch=2, **options)


def test_latency_layers_energy_and_state_of_the_board(write):
    paths = write(times=times(), layers=LAYERS, run=log(8, 11), idle=log(3, 5))
    found = imported(BoardFiles((paths["layers"], paths["times"]), paths["run"], paths["idle"]))
    report, conditions = found.report, found.report.conditions
    assert (report.kind, report.target, report.precision, report.backend) == (
        "measured", "jetson-orin", "fp16", "tensorrt",
    )  # fmt: skip
    assert (report.p50_ms, report.p99_ms) == (2.2, 2.21)
    assert (conditions["batch"], conditions["samples"], conditions["provider"]) == (2, 400, "trtexec")
    assert conditions["compute_p50_ms"] == pytest.approx(2.0)
    assert set(conditions["intervals_ms"]) == {"p50", "p90", "p99"}
    assert (conditions["gpu_clock_mhz_before"], conditions["temperature_c_after"]) == (1300, 60)
    assert [(layer.modules, layer.share) for layer in found.layers] == [(("a",), 0.75), (("fc",), 0.25)]
    # 10 s at 8 W with an inference each 2.5 ms, 5 W of it above the idle board
    assert found.energy.total.gross_mj == pytest.approx(8.0 * 2.5)
    assert found.energy.total.net_mj == pytest.approx(5.0 * 2.5)
    assert (found.energy.total_is, found.energy.runs) == ("VDD_IN", 4000)
    assert found.memory_mb["board_used"] == pytest.approx(2010 * 2**20 / 1e6)
    assert conditions["warnings"] == []


def test_times_alone_are_enough(write):
    found = imported(BoardFiles((write(times=times())["times"],)))
    assert (found.layers, found.energy, found.memory_mb) == ((), None, {})


def test_a_clock_that_fell_and_a_bound_by_the_cpu_are_warned_of(write):
    falling = log(8, 5, 1300) + log(8, 5, 900).replace("10:00:0", "10:00:1")
    paths = write(times=times(enqueue=1.9), run=falling)
    text = " ".join(imported(BoardFiles((paths["times"],), paths["run"])).report.conditions["warnings"])
    assert "GPU clock fell from 1300 to 900 MHz" in text
    assert "the CPU bounds this engine" in text


def test_warm_up_of_8_is_dropped_and_counted(write):
    rows = [row | {"endToEndMs": 2.5} for row in times()]
    found = imported(BoardFiles((write(times=rows)["times"],), warmup_ms=500.0))
    assert (found.report.conditions["samples"], found.report.conditions["warmup"]) == (200, 200)


def test_wrong_sets_of_files_are_refused(write):
    paths = write(times=times(), again=times(), layers=LAYERS, few=times(1), still=[times(1)[0]] * 9, run=log(8, 5))
    with pytest.raises(ConfigError, match="no times are among the files"):
        imported(BoardFiles((paths["layers"],)))
    with pytest.raises(ConfigError, match="times.txt and .*again.txt are of one kind"):
        imported(BoardFiles((paths["times"], paths["again"])))
    with pytest.raises(DataError, match="1 timed inference is too few"):
        imported(BoardFiles((paths["few"],)))
    with pytest.raises(DataError, match="'endComputeMs' does not grow"):
        imported(BoardFiles((paths["still"],), paths["run"]))


TRACE_SCHEMA = {
    # Trace Event Format: https://chromium.googlesource.com/catapult, "Trace Event Format"
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "ph", "pid", "tid"],
                "properties": {
                    "name": {"type": "string"},
                    "cat": {"type": "string"},
                    "ph": {"enum": ["X", "M"]},
                    "ts": {"type": "number", "minimum": 0},
                    "dur": {"type": "number", "minimum": 0},
                    "pid": {"type": "integer"},
                    "tid": {"type": "integer"},
                    "args": {"type": "object"},
                },
                "if": {"properties": {"ph": {"const": "X"}}},
                "then": {"required": ["ts", "dur"]},
                "else": {"properties": {"args": {"required": ["name"]}}, "required": ["args"]},
            },
        },
    },
}


def test_trace_is_valid_and_holds_every_run_and_layer(write):
    import jsonschema

    rows = times(20, period=1.5)  # two in flight
    paths = write(times=rows, layers=LAYERS)
    trace = json.loads(json.dumps(chrome_trace(imported(BoardFiles((paths["times"], paths["layers"]))))))
    jsonschema.validate(trace, TRACE_SCHEMA)
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    compute = [event for event in slices if event["name"] == "compute"]
    starts = {event["args"]["run"]: event["ts"] for event in compute}
    assert starts == pytest.approx({index: 1e3 * (1.5 * index + 0.1) for index in range(20)})
    assert {event["dur"] for event in compute} == {2000.0}
    for thread in {event["tid"] for event in slices}:  # events of one thread must not overlap
        own = sorted((event["ts"], event["ts"] + event["dur"]) for event in slices if event["tid"] == thread)
        assert all(first[1] <= second[0] + 1e-6 for first, second in itertools.pairwise(own))
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert names == {"enqueue", "h2d", "compute", "compute 2", "d2h", "layers of one run, timed apart"}
    layers = [event for event in slices if "modules" in event["args"]]
    assert [(event["ts"], event["dur"], event["args"]["modules"]) for event in layers] == [
        (0, 1500, ["a"]),
        (1500, 500, ["fc"]),
    ]
