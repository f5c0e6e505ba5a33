"""The parameter file: valid, traceable to its data, and chosen by device before generation."""

import math
from pathlib import Path

import pytest
import yaml

from edgekd.core.digest import sha256_of_file
from edgekd.latency import KINDS, load_parameters, parameters_for
from edgekd.latency.parameters import ParameterFile, fp16_hardware
from edgekd.targets import get_target, target_names


def test_file_records_the_digest_of_every_table(shared_data: Path) -> None:
    recorded = load_parameters().data_sha256
    assert "fused_layers.csv.gz" in recorded
    for name, digest in recorded.items():
        assert sha256_of_file(shared_data / "latency" / name) == digest, f"{name} changed: run tools/latency/fit.py"


def test_numbers_are_physical() -> None:
    for name, entry in load_parameters().sets.items():
        kernel = entry.kernel
        for efficiency in (kernel.eff_kxk, kernel.eff_1x1, kernel.eff_depthwise, kernel.eff_grouped, kernel.eff_matmul):
            assert 0 < efficiency <= 1, name
        assert 0 < kernel.eff_bandwidth <= 1, name
        assert kernel.overlap >= 1, name
        assert 4 < kernel.chip_bytes < 128, name
        assert 1_000 < kernel.floor_cycles < 100_000, name
        assert set(entry.precisions) == {"int8", "fp32"}
        assert 0.05 < entry.calibration.model_half_width_log < math.log(3), name
        assert set(entry.calibration.kind_shares) <= set(KINDS), name


def test_only_the_runtime_that_launches_groups_in_turn_pays_for_them() -> None:
    for name, entry in load_parameters().sets.items():
        is_apart = name == "t4"
        assert (entry.kernel.group_share > 0.1) == is_apart, name
        assert (entry.kernel.gate_cost > 2) == is_apart, name
        assert (entry.kernel.host_gb_s < 20) == is_apart, name


def test_device_wins_over_generation_and_relatives_stand_in() -> None:
    assert parameters_for(get_target("t4")).name == "t4"
    assert parameters_for(get_target("titan-rtx")).name == "turing"
    assert parameters_for(get_target("jetson-orin")).is_fitted_device
    nx, ada = parameters_for(get_target("jetson-orin-nx-16gb")), parameters_for(get_target("l4"))
    assert (nx.name, nx.is_fitted_device, nx.transfer) == ("orin", False, None)
    assert ada.name == "ampere-desktop"
    assert ada.transfer is not None


def test_every_target_with_fp16_figures_has_parameters() -> None:
    for name in target_names():
        target = get_target(name)
        if "fp16" in target.peaks_tflops:
            assert parameters_for(target).digest == load_parameters().digest


def test_hardware_is_in_base_units() -> None:
    hardware = fp16_hardware(get_target("jetson-orin"))
    assert (hardware.peak_ops_s, hardware.bandwidth_bytes_s, hardware.clock_hz) == (42.6e12, 204.8e9, 1300.5e6)
    assert (hardware.sms, hardware.bytes_per_elem, hardware.channel_multiple) == (16, 2, 8)


def test_digest_changes_with_any_number() -> None:
    document = load_parameters().model_dump(mode="json")
    assert ParameterFile.model_validate(document).digest == load_parameters().digest
    document["sets"]["orin"]["kernel"]["floor_cycles"] += 1
    assert ParameterFile.model_validate(document).digest != load_parameters().digest


def test_unknown_keys_in_the_file_are_refused() -> None:
    document = yaml.safe_load(yaml.safe_dump(load_parameters().model_dump(mode="json")))
    document["sets"]["orin"]["kernel"]["magic"] = 1.0
    with pytest.raises(ValueError, match="magic"):
        ParameterFile.model_validate(document)
