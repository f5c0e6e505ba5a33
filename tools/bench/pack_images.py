"""Packs any data set that edgekd reads into NumPy pieces of less than 64 MiB, to carry it to another machine.

    python tools/bench/pack_images.py folder cifar100/ packed/ --resolution 32    # a folder of pictures by class
    python tools/bench/pack_images.py cifar100 cifar-100-binary.tar.gz packed/

edgekd reads the result as the data set `packed`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edgekd.core import atomic
from edgekd.data import DATASETS, DataConfig, Part

PIECE_BYTES = 60 << 20


def pack(config: DataConfig, folder: Path) -> list[Path]:
    """Write a data set's parts as pieces; returns the files.

    Args:
        config: The data set.
        folder: Where the pieces go.
    """
    source = DATASETS[config.name].load(config)
    files = [folder / "classes.txt"]
    atomic.write_text(files[0], "\n".join(source.task.targets) + "\n")
    for part_name, part in (("train", source.train), ("test", source.test)):
        files += _write_pieces(part, folder, part_name)
    return files


def _write_pieces(part: Part, folder: Path, name: str) -> list[Path]:
    rows_in_piece = max(1, PIECE_BYTES // int(np.prod(part.inputs.shape)))
    files = []
    for start in range(0, len(part.labels), rows_in_piece):
        rows = np.arange(start, min(start + rows_in_piece, len(part.labels)), dtype=np.int64)
        files.append(folder / f"{name}-{len(files):03d}.npz")
        with atomic.replacing(files[-1]) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=part.inputs.gather(rows), labels=part.labels[rows])
    return files


def main() -> None:
    """Pack what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="registered data set")
    parser.add_argument("path", help="where it is; - for a set that needs no path")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resolution", type=int, help="side in pixels, for data sets of pictures of any size")
    arguments = parser.parse_args()
    path = None if arguments.path == "-" else arguments.path
    config = DataConfig(name=arguments.name, path=path, resolution=arguments.resolution)
    for file in pack(config, arguments.folder):
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
