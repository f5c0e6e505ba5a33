"""Data sets by name, their splits, batches, augmentation and calibration pictures.

`load_dataset` reads any registered set; importing this package registers the built-in ones. To add one, write a
function from `DataConfig` to `Source` and `DATASETS.add("name", DatasetKind(load, augmentation=..., needs=...))`.
"""

from edgekd.data import cifar as cifar
from edgekd.data import digits as digits
from edgekd.data import digits_halves as digits_halves
from edgekd.data import digits_pose as digits_pose
from edgekd.data import digits_scenes as digits_scenes
from edgekd.data import folder as folder
from edgekd.data import idx as idx
from edgekd.data import packed as packed
from edgekd.data import strips as strips
from edgekd.data.ahead import batches_ahead
from edgekd.data.augment import AUGMENTATIONS, Augment, Chained, Divisible, RandomCrop, augmentation
from edgekd.data.batches import WHOLE, Batch, Blend, Portion, eval_batches, train_batches, view_batch
from edgekd.data.calibration import calibration_inputs, calibration_rows
from edgekd.data.config import DataConfig
from edgekd.data.corrupt import CORRUPT_FILE, CorruptLog, CorruptRecord
from edgekd.data.dataset import Dataset, Split, describe
from edgekd.data.images import ArrayImages
from edgekd.data.inputs import Inputs, InputStore, NetInputs, network_inputs
from edgekd.data.loading import load_dataset
from edgekd.data.metrics import IGNORED, UNLABELLED, Labels, Metric, Outputs
from edgekd.data.parquet import loader as parquet_loader  # noqa: F401 (registers)
from edgekd.data.randaugment import RandAugment
from edgekd.data.resident import ResidentSplit
from edgekd.data.sample_views import SampleViews
from edgekd.data.shards import loader as shards_loader  # noqa: F401 (registers)
from edgekd.data.sources import DATASETS, DatasetKind, Part, Shards, Source, dataset_names, default_augmentation
from edgekd.data.task import KINDS, Kind, Task
from edgekd.data.text import loader as loader

__all__ = [
    "AUGMENTATIONS",
    "ArrayImages",
    "Augment",
    "Batch",
    "Blend",
    "CORRUPT_FILE",
    "Chained",
    "CorruptLog",
    "CorruptRecord",
    "DATASETS",
    "DataConfig",
    "DatasetKind",
    "Dataset",
    "Divisible",
    "IGNORED",
    "InputStore",
    "Inputs",
    "KINDS",
    "Kind",
    "Labels",
    "Metric",
    "NetInputs",
    "Outputs",
    "Part",
    "Portion",
    "RandAugment",
    "RandomCrop",
    "ResidentSplit",
    "SampleViews",
    "Shards",
    "Source",
    "Split",
    "Task",
    "UNLABELLED",
    "WHOLE",
    "augmentation",
    "batches_ahead",
    "calibration_inputs",
    "calibration_rows",
    "dataset_names",
    "default_augmentation",
    "describe",
    "eval_batches",
    "load_dataset",
    "network_inputs",
    "train_batches",
    "view_batch",
]
