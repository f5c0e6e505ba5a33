"""Fused-layer tables: read exactly, or refused with the line."""

import gzip
from pathlib import Path

import pytest

from edgekd.core.errors import DataError
from edgekd.latency import graphs_from_csv, predict, predict_many
from edgekd.targets import get_target

HEADER = (
    "model,resolution,built_from,idx,kind,macs,in_elems,out_elems,weight_elems,gemm_m,gemm_n,gemm_k,groups,"
    "kernel_area,fused_pointwise,fused_residual"
)
ROWS = ["net,32,hand,0,input,0,12,12,0,,,,,,0,0", "net,32,hand,1,conv_kxk,720,30,40,18,20,2,18,1,9,1,1"]


def save(folder: Path, *rows: str, header: str = HEADER, name: str = "layers.csv") -> Path:
    path = folder / name
    content = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


@pytest.mark.parametrize("name", ["layers.csv", "layers.csv.gz"])
def test_table_is_read_by_model_and_resolution(tmp_path: Path, name: str) -> None:
    graphs = graphs_from_csv(save(tmp_path, *ROWS, ROWS[0].replace(",32,", ",64,"), name=name))
    assert list(graphs) == [("net", 32), ("net", 64)]
    entry, conv = graphs[("net", 32)].layers
    assert (entry.kind, entry.in_elems, entry.gemm_m, entry.kernel_area) == ("input", 12, 0, 0)
    assert conv.shape_key == ("conv_kxk", 720, 30, 40, 18, 20, 2, 18, 1, 9, 1, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("net,32,hand,1,conv9,720,30,40,18,20,2,18,1,9,1,1", "line 3: unknown layer kind 'conv9'"),
        ("net,32,hand,1,conv_kxk,many,30,40,18,20,2,18,1,9,1,1", "line 3"),
        ("net,32,hand,1,conv_kxk,720,-30,40,18,20,2,18,1,9,1,1", "cannot have in_elems < 0"),
        ("net,32,hand,1,conv_kxk,720,30,0,18,20,2,18,1,9,1,1", "cannot have out_elems = 0"),
        ("net,32,hand,1,conv_kxk,720,30,40", "line 3: the row has not as many fields"),
        ("net,32,hand,1,conv_kxk,720,30,40,18,20,2,18,1,9,1,1,5", "line 3: the row has not as many fields"),
        ("net,-32,hand,1,conv_kxk,720,30,40,18,20,2,18,1,9,1,1", "line 3: resolution -32 is below 0"),
        (",32,hand,1,conv_kxk,720,30,40,18,20,2,18,1,9,1,1", "line 3: model has no name"),
        ("n" * 200_000 + ",32,hand,1,conv_kxk,720,30,40,18,20,2,18,1,9,1,1", "field larger than field limit"),
    ],
)
def test_wrong_row_is_refused_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        graphs_from_csv(save(tmp_path, ROWS[0], row))


def test_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns missing: kind, macs"):
        graphs_from_csv(save(tmp_path, "1,2", header="model,resolution"))


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        graphs_from_csv(tmp_path / "none.csv")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        graphs_from_csv(broken)
    content = bytearray(gzip.compress("\n".join([HEADER, *ROWS * 100]).encode()))
    content[40:42] = bytes(255 - byte for byte in content[40:42])
    broken.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        graphs_from_csv(broken)


def test_a_byte_order_mark_of_a_spreadsheet_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert list(graphs_from_csv(save(tmp_path, *ROWS, header="\ufeff" + HEADER))) == [("net", 32)]


@pytest.mark.parametrize(
    "row",
    [
        "net,32,hand,1,conv_kxk,9" + "0" * 30 + ",30,40,18,20,2,18,1,9,1,1",
        "net,32,hand,1,pointwise,0,9000000000000000000,40,0,,,,,,0,0",
    ],
)
def test_counts_beyond_any_device_are_refused(tmp_path: Path, row: str) -> None:
    graph = graphs_from_csv(save(tmp_path, ROWS[0], row))["net", 32]
    with pytest.raises(DataError, match=r"layer '1' \(.*\) counts 9e\+"):
        predict(graph, get_target("jetson-orin"), "fp16")


def test_products_beyond_64_bits_do_not_wrap_around(tmp_path: Path) -> None:
    rows = [f"net,{size},hand,1,conv_kxk,9000,30,40,18,{size}000000000,2000000000,18,1,1,1,1" for size in (1, 30)]
    one, thirty = predict_many(list(graphs_from_csv(save(tmp_path, *rows)).values()), get_target("jetson-orin"), "fp16")
    assert thirty.p50_ms == pytest.approx(30 * one.p50_ms, rel=1e-3)


def test_public_table_agrees_with_known_totals(shared_data: Path) -> None:
    graphs = graphs_from_csv(shared_data / "latency" / "fused_layers.csv.gz")
    assert len(graphs) == 193
    assert graphs[("resnet18", 224)].macs == pytest.approx(1.814e9, rel=0.001)
    assert graphs[("resnet50", 224)].macs == pytest.approx(4.09e9, rel=0.005)
