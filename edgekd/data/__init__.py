"""Data sets by name, their splits, batches, augmentation and calibration pictures.

`load_dataset` reads any registered set; importing this package registers the built-in ones. To add one, write a
function from `DataConfig` to `Source` and `DATASETS.add("name", DatasetKind(load, augmentation=..., needs=...))`.
"""

from edgekd.data import cifar as cifar
from edgekd.data import digits as digits
from edgekd.data import folder as folder
from edgekd.data import idx as idx
from edgekd.data import packed as packed
from edgekd.data import strips as strips
from edgekd.data.augment import AUGMENTATIONS, Augment, RandomCrop, augmentation
from edgekd.data.batches import Batch, eval_batches, train_batches, unit_floats
from edgekd.data.calibration import calibration_images, calibration_rows
from edgekd.data.config import DataConfig
from edgekd.data.dataset import ImageDataset, Split, describe
from edgekd.data.images import ArrayImages, Images, PictureStore
from edgekd.data.loading import load_dataset
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, dataset_names, default_augmentation

__all__ = [
    "AUGMENTATIONS",
    "ArrayImages",
    "Augment",
    "Batch",
    "DATASETS",
    "DataConfig",
    "DatasetKind",
    "ImageDataset",
    "Images",
    "Part",
    "PictureStore",
    "RandomCrop",
    "Source",
    "Split",
    "augmentation",
    "calibration_images",
    "calibration_rows",
    "dataset_names",
    "default_augmentation",
    "describe",
    "eval_batches",
    "load_dataset",
    "train_batches",
    "unit_floats",
]
