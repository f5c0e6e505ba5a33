"""What CUDA says of a GPU; texts written here in the format of the deviceQuery sample."""

import pytest

from edgekd.core.errors import DataError
from edgekd.targets import get_target
from edgekd.targets.device_query import parse_device_query, parse_pairs


def device_query(
    name="Orin", sm="8.7", sms="008", clock=918, memory=16136011776, shared="Yes", memory_clock=918, bus=64, l2=2097152
) -> str:
    return f"""\
./deviceQuery Starting...

Detected 1 CUDA Capable device(s)

Device 0: "{name}"
  CUDA Driver Version / Runtime Version          12.6 / 12.6
  CUDA Capability Major/Minor version number:    {sm}
  Total amount of global memory:                 {memory >> 20} MBytes ({memory} bytes)
  ({sms}) Multiprocessors, (128) CUDA Cores/MP:    1024 CUDA Cores
  GPU Max Clock rate:                            {clock} MHz ({clock / 1e3:.2f} GHz)
  Memory Clock rate:                             {memory_clock} Mhz
  Memory Bus Width:                              {bus}-bit
  L2 Cache Size:                                 {l2} bytes
  Integrated GPU sharing Host Memory:            {shared}
Result = PASS
"""


def test_integrated_gpu_has_no_bandwidth_of_its_own() -> None:
    facts = parse_device_query(device_query())
    assert (facts.name, facts.sm, facts.sms, facts.clock_mhz, facts.l2_mb) == ("Orin", 87, 8, 918, 2)
    assert facts.memory_gb == pytest.approx(15.028, abs=1e-3)
    assert facts.is_integrated
    assert facts.bandwidth_gb_s is None


def test_bandwidth_of_a_card_is_two_transfers_a_clock() -> None:
    text = device_query("NVIDIA T4", "7.5", "40", 1590, 15843721216, "No", 5001, 256, 4194304)
    facts = parse_device_query(text)
    assert facts.bandwidth_gb_s == pytest.approx(320, rel=1e-3)
    assert not facts.is_integrated


def test_text_without_that_line_counts_as_integrated() -> None:
    text = "\n".join(line for line in device_query(shared="No").splitlines() if "Integrated" not in line)
    assert parse_device_query(text).bandwidth_gb_s is None


def test_everything_missing_is_named_at_once() -> None:
    text = device_query().replace("Multiprocessors", "Things").replace("L2 Cache Size", "Cache")
    with pytest.raises(DataError, match="no multiprocessors, no L2 cache"):
        parse_device_query(text)


@pytest.mark.parametrize(("text", "count"), [("hello", 0), (device_query() + device_query(), 2)])
def test_text_of_no_or_two_devices_is_refused(text: str, count: int) -> None:
    with pytest.raises(DataError, match=f"describes {count} devices"):
        parse_device_query(text)


# What the probe's program printed on an NVIDIA H200 (driver 580.159.04).
PAIRS = (
    "name=NVIDIA H200\nmemory_bytes=150109880320\nsm=90\nsms=132\nclock_khz=1980000\nl2_bytes=62914560\n"
    "integrated=0\nmemory_khz=3201000\nbus_bits=6016\n"
)


def test_pairs_of_a_real_card_agree_with_its_data_sheet() -> None:
    facts, sheet = parse_pairs(PAIRS), get_target("h200")
    assert (facts.sm, facts.sms, facts.clock_mhz) == (sheet.sm, sheet.sms, 1980)
    assert facts.l2_mb * 2**20 == sheet.l2_bytes
    assert facts.bandwidth_gb_s == pytest.approx(sheet.bandwidth_gb_s, rel=0.005)
    assert facts.memory_gb == pytest.approx(sheet.memory_gb, rel=0.01)


def test_pairs_that_lack_something_or_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="does not say its sms, clock_khz"):
        parse_pairs(PAIRS.replace("sms=132\nclock_khz=1980000\n", ""))
    with pytest.raises(DataError, match="sms of the GPU is 'many'"):
        parse_pairs(PAIRS.replace("sms=132", "sms=many"))
