"""What a Jetson says about its power modes; texts written here in the format of the tool."""

import pytest

from edgekd.core.errors import DataError
from edgekd.targets.nvpmodel import ConfMode, parse_nvpmodel_conf, parse_nvpmodel_query

CONF = """\
< PARAM TYPE=FILE NAME=TPC_POWER_GATING >
TPC_PG_MASK /sys/devices/gpu.0/tpc_pg_mask
< PARAM TYPE=CLOCK NAME=GPU >
MAX_FREQ /sys/devices/17000000.ga10b/devfreq/17000000.ga10b/max_freq

# the fastest
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
TPC_POWER_GATING TPC_PG_MASK 0
GPU MIN_FREQ 0
GPU MAX_FREQ -1
EMC MAX_FREQ 0

< POWER_MODEL ID=1 NAME=MODE_15W >
CPU_ONLINE CORE_0 1
TPC_POWER_GATING TPC_PG_MASK 0xfc   # six clusters off
GPU MIN_FREQ 0
# GPU MAX_FREQ 999000000
GPU MAX_FREQ 420750000
EMC MAX_FREQ 2133000000
DLA0_CORE MAX_FREQ 614400000

< POWER_MODEL ID=2 NAME=30W >
TPC_POWER_GATING TPC_PG_MASK 240
GPU MAX_FREQ 624750000
EMC MAX_FREQ 9223372036

< PM_CONFIG DEFAULT=2 >
"""


def test_conf_is_read_mode_by_mode() -> None:
    assert parse_nvpmodel_conf(CONF) == (
        ConfMode("MAXN", 0, None, None, 0),
        ConfMode("15W", 1, 420.75, 2133.0, 6),
        ConfMode("30W", 2, 624.75, None, 4),
    )


def test_conf_without_a_mask_does_not_claim_that_all_is_on() -> None:
    (mode,) = parse_nvpmodel_conf("< POWER_MODEL ID=1 NAME=5W >\nGPU MAX_FREQ 640000000\nEMC MAX_FREQ 1600000000\n")
    assert mode == ConfMode("5W", 1, 640.0, 1600.0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no POWER_MODEL"),
        ("hello", "no POWER_MODEL"),
        (CONF + "\n< POWER_MODEL ID=7 NAME=30W >\nGPU MAX_FREQ 1000000000\n", "'30W' twice"),
        ("< POWER_MODEL ID=2 NAME=25W >\nGPU MAX_FREQ 624000\n", "25W: GPU MAX_FREQ 624000 is no clock in hertz"),
    ],
)
def test_conf_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_nvpmodel_conf(text)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: 15W\n2\n", ("15W", 2)),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2\n", ("MAXN_SUPER", 2)),
        ("NV Power Mode: MODE_30W\n2", ("30W", 2)),
        ("NV Fan Mode:quiet\nNV Power Mode: 30W\n", ("30W", None)),
    ],
)
def test_query_names_the_mode(text: str, mode: tuple[str, int | None]) -> None:
    assert parse_nvpmodel_query(text) == mode


def test_query_without_a_mode_is_refused() -> None:
    with pytest.raises(DataError, match="no power mode in the answer"):
        parse_nvpmodel_query("NVPM ERROR: not permitted\n")
