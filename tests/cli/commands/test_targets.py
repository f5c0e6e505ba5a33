"""Targets as text and as JSON."""

import json

from edgekd.targets import aliases, get_target, target_names


def test_list_names_every_target_and_alias(edgekd):
    lines = edgekd("targets", "list").stdout.splitlines()
    first_words = {line.split()[0] for line in lines if line}
    assert {*target_names(), *aliases()} <= first_words


def test_list_as_json_agrees_with_the_library(edgekd):
    document = json.loads(edgekd("targets", "list", "--json").stdout)
    assert [target["name"] for target in document["targets"]] == list(target_names())
    assert document["aliases"] == aliases()


def test_show_says_what_an_alias_stands_for_with_sources(edgekd):
    text = edgekd("targets", "show", "jetson-orin").stdout
    assert text.startswith("jetson-orin = Jetson AGX Orin 64GB, MAXN, JetPack 6.2, TensorRT 10.3\n")
    bandwidth = next(line for line in text.splitlines() if line.startswith("bandwidth_gb_s"))
    assert bandwidth.split()[1:3] == ["204.8", "S"]
    peaks = next(line for line in text.splitlines() if line.startswith("peaks_tflops"))
    assert peaks.endswith(f"int8 {get_target('jetson-orin').sources['peaks_tflops.int8']}")


def test_show_as_json_holds_every_figure_and_the_digest(edgekd):
    shown = json.loads(edgekd("targets", "show", "rtx-4090", "--json").stdout)["target"]
    target = get_target("rtx-4090")
    assert shown["digest"] == target.digest
    assert shown["peaks_tflops"] == dict(target.peaks_tflops)
    assert shown["sm"] == 89


def test_unknown_target_lists_near_ones_and_exits_2(edgekd):
    result = edgekd("targets", "show", "rtx4090")
    assert result.exit_code == 2
    assert "did you mean rtx-4090" in result.stderr
