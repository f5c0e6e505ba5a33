"""Measures how many pictures a second each kind of storage gives, next to a plain DataLoader, and keeps the figures.

    python tools/bench/data_loading.py                 # 5,000 JPEGs of 96 x 96, 300 of 1,600 x 1,200
    python tools/bench/data_loading.py --pictures 500 --repeats 1 --print

The pictures are made here, the same as files, in tar shards and in Parquet tables; what is timed is an epoch of batches
of 64 at 64 x 64 in random order, from files that the system has in memory. `torch` is a map-style data set of files
with Pillow behind a shuffling DataLoader. The `webdataset` library is timed where it is installed. Rounds are
interleaved, and the median of the rounds is kept, with the slowest and the fastest. Without workers, pictures a second
of processor time are kept too, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import shlex
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keep_result import RESULTS, clean_commit, cpu_name
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from edgekd.core import atomic
from edgekd.data import DataConfig, augmentation, batches_ahead, load_dataset, train_batches
from edgekd.data.dataset import Split

RESOLUTION, BATCH, CLASSES, IN_A_SHARD = 64, 64, 10, 500
Epoch = Callable[[int], int]


def encoded(number: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG of smooth random colours, as large as photographs of that size."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, "jpeg", quality=90)
    return stream.getvalue()


def stored(root: Path, count: int, size: tuple[int, int]) -> None:
    """Write pictures as `folder/`, `webdataset/` and `parquet/`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [encoded(number, size) for number in range(count)]
    for number, content in enumerate(pictures):
        path = root / "folder" / f"class{number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for kind in ("webdataset", "parquet"):
        (root / kind).mkdir()
    for shard, first in enumerate(range(0, count, IN_A_SHARD)):
        rows = range(first, min(count, first + IN_A_SHARD))
        with tarfile.open(root / "webdataset" / f"{shard:06d}.tar", "w") as archive:
            for row in rows:
                for suffix, content in ((".jpg", pictures[row]), (".cls", str(row % CLASSES).encode())):
                    info = tarfile.TarInfo(f"{row:06d}{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        cells = pa.array([{"bytes": pictures[row], "path": None} for row in rows])
        table = pa.table({"image": cells, "label": [row % CLASSES for row in rows]})
        pq.write_table(table, root / "parquet" / f"{shard:06d}.parquet", row_group_size=100)


def split_of(kind: str, root: Path, **options: object) -> Split:
    """Return the training split of a kind of storage."""
    document = {"name": kind, "path": str(root / kind), "resolution": RESOLUTION, "val_fraction": 0.05, **options}
    return load_dataset(DataConfig.model_validate(document)).train


def epoch_of(split: Split, workers: int) -> Epoch:
    """Return what makes an epoch of a split and counts its pictures."""

    def run(epoch: int) -> int:
        options = {"batch_size": BATCH, "epoch": epoch, "seed": 0, "augment": augmentation("none")}
        batches = batches_ahead(split, workers=workers, **options) if workers else train_batches(split, **options)
        return sum(len(batch) for batch in batches)

    return run


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Picture files as most scripts read them."""

    def __init__(self, root: Path) -> None:
        self.paths = sorted(root.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """Return one picture and its class."""
        return as_tensor(Image.open(self.paths[row])), int(self.paths[row].parent.name[5:])


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """Return a square picture as networks take it."""
    small = picture.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255


def plain_epoch(root: Path, workers: int) -> Epoch:
    """Return an epoch of a DataLoader over files."""
    loader = DataLoader(Files(root / "folder"), batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True)
    return lambda _: sum(len(labels) for _, labels in loader)


def library_epoch(root: Path, workers: int) -> Epoch:
    """Return an epoch of the webdataset library, which shuffles shards and then within a thousand pictures."""
    import webdataset

    urls = sorted(map(str, (root / "webdataset").glob("*.tar")))
    source = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000)
    decoded = source.to_tuple("jpg", "cls").map_tuple(lambda raw: as_tensor(Image.open(io.BytesIO(raw))), int)
    loader = DataLoader(decoded.batched(BATCH), batch_size=None, num_workers=workers)
    return lambda _: sum(len(labels) for _, labels in loader)


def cases(root: Path, large: Path) -> Iterator[tuple[dict[str, Any], Epoch]]:
    """Yield what is timed."""
    kinds = ("folder", "webdataset", "parquet")
    splits = {kind: split_of(kind, root) for kind in kinds}
    by_shard = split_of("webdataset", root, shuffle="shards")
    for workers in (0, 2):
        for kind in kinds:
            yield {"loader": "edgekd", "storage": kind, "workers": workers}, epoch_of(splits[kind], workers)
        yield (
            {"loader": "edgekd", "storage": "webdataset", "shuffle": "shards", "workers": workers},
            epoch_of(by_shard, workers),
        )
        yield {"loader": "torch", "storage": "folder", "workers": workers}, plain_epoch(root, workers)
        if importlib.util.find_spec("webdataset") is not None:
            yield {"loader": "webdataset", "storage": "webdataset", "workers": workers}, library_epoch(root, workers)
    for decode in ("exact", "fast"):
        large_split = split_of("folder", large, decode=decode)
        yield {"loader": "edgekd", "storage": "folder", "pictures": "large", "decode": decode}, epoch_of(large_split, 0)


def timed(found: list[tuple[dict[str, Any], Epoch]], repeats: int) -> list[dict[str, Any]]:
    """Run all epochs in turn, round after round."""
    rates: list[list[float]] = [[] for _ in found]
    busy: list[list[float]] = [[] for _ in found]
    for repeat in range(repeats):
        for (_, epoch), kept, kept_busy in zip(found, rates, busy, strict=True):
            started, started_busy = time.perf_counter(), time.process_time()
            count = epoch(repeat)
            kept.append(count / (time.perf_counter() - started))
            kept_busy.append(count / (time.process_time() - started_busy))
    return [
        {
            **case,
            "pictures_per_s": round(statistics.median(kept)),
            **({} if case.get("workers") else {"pictures_per_cpu_s": round(statistics.median(kept_busy))}),
            "slowest": round(min(kept)),
            "fastest": round(max(kept)),
        }
        for (case, _), kept, kept_busy in zip(found, rates, busy, strict=True)
    ]


def start_times(root: Path) -> dict[str, dict[str, float]]:
    """Return the seconds that a data set takes to load: at the first sight, and with what that left behind."""
    seconds = {}
    for kind in ("folder", "webdataset", "parquet"):
        taken = []
        for _ in range(2):
            started = time.perf_counter()
            split_of(kind, root)
            taken.append(round(time.perf_counter() - started, 3))
        seconds[kind] = dict(zip(("first_s", "again_s"), taken, strict=True))
    return seconds


def main() -> None:
    """Measure, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--large", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--print", action="store_true", help="print the figures, keep no file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as scratch:
        root, large = Path(scratch) / "small", Path(scratch) / "large"
        stored(root, arguments.pictures, (96, 96))
        stored(large, arguments.large, (1600, 1200))
        starts = start_times(root)
        rows = timed(list(cases(root, large)), arguments.repeats)
    document = {
        "schema_version": 1,
        "command": shlex.join(["python", "tools/bench/data_loading.py", *sys.argv[1:]]),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "versions": {name: _version(name) for name in ("torch", "pillow", "pyarrow", "webdataset")},
        "pictures": {"small": [arguments.pictures, 96, 96], "large": [arguments.large, 1600, 1200]},
        "batch": BATCH,
        "resolution": RESOLUTION,
        "repeats": arguments.repeats,
        "start": starts,
        "rates": rows,
    }
    if arguments.print:
        print(json.dumps(document, indent=1))
        return
    version = torch.__version__.partition("+")[0]
    path = RESULTS / f"data-loading_cpu-{cpu_name()}_torch{version}_{clean_commit()}.json"
    for older in RESULTS.glob("data-loading_*.json"):
        older.unlink()
    atomic.write_json(path, document)
    print(path)


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
