"""Published code, run as it is published, for `train_step.py`: its own networks, losses, data path and inner loop.

Only what needs a GPU or a service is replaced: `cuda()` leaves a CPU tensor where it is, and TensorBoard is silent.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from train_step_child import CLASSES, MEAN, STD, Task, settled

_NEGATIVES = 16384


def engine(name: str, peers: Path) -> Callable[[Task], None]:
    """Return what runs a peer; raises `SystemExit` where it is not there."""
    folder = {"mdistiller": "mdistiller", "repdistiller": "RepDistiller", "torchdistill": "torchdistill"}[name]
    if not (peers / folder).is_dir():
        raise SystemExit(f"{folder} is not there")
    sys.path[:0] = [str(peers / folder), *([str(peers / "site")] if (peers / "site").is_dir() else [])]
    _have_torchvision()
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign, assignment]
    return {"mdistiller": _mdistiller, "repdistiller": _repdistiller, "torchdistill": _torchdistill}[name]


def _have_torchvision() -> None:
    """Import torchvision, whose compiled operators are missing beside a torch for CPUs."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401


_KEPT: list[Any] = []


class Pictures(torch.utils.data.Dataset[Any]):
    """The pictures as the peers read CIFAR: one by one through PIL and torchvision's transforms.

    Args:
        task: What is trained on.
        shape: Turns picture, label and row into what the engine's loop takes.
    """

    def __init__(self, task: Task, shape: Callable[[torch.Tensor, int, int], Any]) -> None:
        from torchvision import transforms

        self._task, self._shape, self._made = task, shape, 0
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._task.labels)

    def __getitem__(self, row: int) -> Any:
        from PIL import Image

        if self._made % self._task.batch == 0:
            self._task.clock.tick()
        self._made += 1
        return self._shape(self._transform(Image.fromarray(self._task.pixels[row])), int(self._task.labels[row]), row)


def _loader(task: Task, shape: Callable[[torch.Tensor, int, int], Any]) -> Any:
    return torch.utils.data.DataLoader(Pictures(task, shape), batch_size=task.batch, shuffle=True, num_workers=0)


def _with_row(picture: torch.Tensor, label: int, row: int) -> Any:
    return picture, label, row


def _with_negatives(task: Task) -> Callable[[torch.Tensor, int, int], Any]:
    """Draw negatives of other classes beside each picture, as the peers' CIFAR loader for CRD does."""
    others = [np.flatnonzero(task.labels != label) for label in range(CLASSES)]

    def shape(picture: torch.Tensor, label: int, row: int) -> Any:
        drawn = np.random.choice(others[label], _NEGATIVES, replace=len(others[label]) < _NEGATIVES)
        return picture, label, row, np.hstack((np.asarray([row]), drawn))

    return shape


def _mdistiller(task: Task) -> None:
    sys.modules["tensorboardX"] = types.SimpleNamespace(SummaryWriter=None)  # type: ignore[assignment]
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine import trainer_dict
    from mdistiller.engine.cfg import CFG
    from mdistiller.engine.utils import AverageMeter
    from mdistiller.models import cifar_model_dict

    teacher, student = (cifar_model_dict[name][0](num_classes=CLASSES) for name in task.pair.split("-"))
    settled(teacher)
    widths = [64, 128, 256, 256] if "x4" in task.pair else [16, 32, 64, 64]
    CFG.REVIEWKD.IN_CHANNELS = CFG.REVIEWKD.OUT_CHANNELS = widths
    CFG.CRD.FEAT.STUDENT_DIM = CFG.CRD.FEAT.TEACHER_DIM = widths[-1]
    kind = distiller_dict[task.method.upper()]
    more = (len(task.labels),) if task.method == "crd" else ()
    distiller = nn.DataParallel(kind(student, teacher, CFG, *more).to(task.device))
    trainer = object.__new__(trainer_dict["crd" if task.method == "crd" else "base"])
    trainer.cfg, trainer.distiller = CFG, distiller
    trainer.optimizer = trainer.init_optimizer(CFG)
    meters = {name: AverageMeter() for name in ("training_time", "data_time", "losses", "top1", "top5")}
    distiller.train()
    for data in _loader(task, _with_negatives(task) if task.method == "crd" else _with_row):
        trainer.train_iter(data, 30, meters)


_REPDISTILLER = {
    "kd": "kd",
    "fitnet": "hint",
    "sp": "similarity",
    "vid": "vid",
    "at": "attention",
    "rkd": "rkd",
    "crd": "crd",
}


def _repdistiller(task: Task) -> None:
    import distiller_zoo
    from crd.criterion import CRDLoss
    from helper.loops import train_distill
    from models import model_dict
    from models.util import ConvReg

    distilled = _REPDISTILLER[task.method]
    teacher, student = (model_dict[name](num_classes=CLASSES) for name in task.pair.split("-"))
    settled(teacher)
    features = [net(torch.randn(2, 3, 32, 32), is_feat=True)[0] for net in (student, teacher)]
    trained, extra = nn.ModuleList([student]), []
    if distilled == "hint":
        extra = [ConvReg(features[0][2].shape, features[1][2].shape)]
        criterion = distiller_zoo.HintLoss()
    elif distilled == "crd":
        width = features[0][-1].shape[1]
        facts = {"s_dim": width, "t_dim": width, "feat_dim": 128, "n_data": len(task.labels)}
        criterion = CRDLoss(types.SimpleNamespace(**facts, nce_k=_NEGATIVES, nce_t=0.07, nce_m=0.5))
        extra = [criterion.embed_s, criterion.embed_t]
    elif distilled == "vid":
        channels = [[each.shape[1] for each in of_net[1:-1]] for of_net in features]
        pairs = zip(*channels, strict=True)
        criterion = nn.ModuleList(distiller_zoo.VIDLoss(mine, theirs, theirs) for mine, theirs in pairs)
        trained.append(criterion)
    else:
        kinds = {"similarity": "Similarity", "attention": "Attention", "rkd": "RKDLoss"}
        criterion = distiller_zoo.DistillKL(4) if distilled == "kd" else getattr(distiller_zoo, kinds[distilled])()
    trained.extend(extra)
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    modules = nn.ModuleList([student, *extra, teacher]).to(task.device)
    criteria = nn.ModuleList([nn.CrossEntropyLoss(), distiller_zoo.DistillKL(4), criterion]).to(task.device)
    is_kd = distilled == "kd"
    options = {"gamma": 0.1 if is_kd else 1.0, "alpha": 0.9 if is_kd else 0.0, "beta": 0.0 if is_kd else 1.0}
    wanted = types.SimpleNamespace(distill=distilled, hint_layer=2, print_freq=100, **options)
    loader = _loader(task, _with_negatives(task) if distilled == "crd" else _with_row)
    train_distill(1, loader, modules, criteria, optimiser, wanted)


def _torchdistill(task: Task) -> None:
    import torchdistill.core.distillation as core
    from torchdistill.losses import mid_level  # noqa: F401 - registers losses

    student_config, terms = _torchdistill_terms(task)
    # Their own residual networks are wider or deeper than the pair; edgekd's have the layers it needs by name.
    from train_step_child import PAIRS, network

    teacher, student = (_Plain(network(name)) for name in PAIRS[task.pair])
    settled(teacher)
    teacher_hooks = {"input": [], "output": ["layer1", "layer2", "layer3", "avgpool"]}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": task.batch},
        },
        "teacher": {
            "forward_proc": "forward_batch_only",
            "sequential": [],
            "forward_hook": teacher_hooks,
            "requires_grad": False,
        },
        "student": student_config,
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
    pictures = {"train": Pictures(task, lambda picture, label, row: (picture, label))}
    device = torch.device(task.device)
    box = core.get_distillation_box(teacher, student, pictures, config, device, None, False, 1.0)
    box.pre_epoch_process(epoch=0)
    for sample_batch, targets, supplement in box.train_data_loader:
        loss = box.forward_process(sample_batch.to(device), targets.to(device), supplement)
        box.post_forward_process(loss=loss)
        if not torch.isfinite(loss):
            raise ValueError(f"loss {loss.item()}")


class _Plain(nn.Module):
    """One of edgekd's networks on normalised pictures, with its stages under the names that torchdistill hooks."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        layers = dict(net.net.named_children())  # type: ignore[operator, union-attr]
        self.stem = nn.Sequential(layers["conv1"], layers["bn1"], layers["relu"])
        self.layer1, self.layer2, self.layer3 = layers["layer1"], layers["layer2"], layers["layer3"]
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(self.layer3[-1].conv2.out_channels, CLASSES)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        maps = self.layer3(self.layer2(self.layer1(F.relu(self.stem(pictures)))))
        logits: torch.Tensor = self.head(self.avgpool(maps).flatten(1))
        return logits


def _torchdistill_terms(task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of the student and of the losses, as in the samples of torchdistill."""
    stages = ("layer1", "layer2", "layer3")
    student: dict[str, Any] = {
        "forward_proc": "forward_batch_only",
        "sequential": [],
        "forward_hook": {"input": [], "output": [*stages, "avgpool"]},
        "requires_grad": True,
    }
    label = {"is_from_teacher": False, "module_path": ".", "io": "output"}
    wrapped = {"key": "SimpleLossWrapper", "kwargs": {"input": label, "target": {"uses_label": True}}}
    plain = {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
        "criterion_wrapper": wrapped,
        "weight": 1.0,
    }

    def pair(path: str, own: str) -> dict[str, Any]:
        return {
            "teacher": {"io": "output", "path": path},
            "student": {"io": "output", "path": own},
            "weight": 1,
        }

    def pair_of(path: str) -> dict[str, str]:
        return {"teacher_output_path": path, "student_output_path": path}

    method = task.method
    if method == "kd":
        paths = {f"{role}_module_{what}": value for role in ("student", "teacher") for what, value in _OUTPUT}
        loss = {"key": "KDLoss", "kwargs": {**paths, "temperature": 4.0, "alpha": 0.9, "reduction": "batchmean"}}
        return student, {"kd": {"criterion": loss, "weight": 1.0}}
    if method == "sp":
        loss = {"key": "SPKDLoss", "kwargs": {**pair_of("layer3"), "reduction": "batchmean"}}
    elif method == "rkd":
        kwargs = {**pair_of("avgpool"), "dist_factor": 25.0, "angle_factor": 50.0, "reduction": "mean"}
        loss = {"key": "RKDLoss", "kwargs": kwargs}
    elif method == "at":
        pairs = {f"pair{index}": pair(path, path) for index, path in enumerate(stages)}
        loss = {"key": "ATLoss", "kwargs": {"at_pairs": pairs, "mode": "code"}}
    elif method == "vid":
        widths = (64, 128, 256) if "x4" in task.pair else (16, 32, 64)
        regressors = {}
        for index, width in enumerate(widths):
            sizes = {"in_channels": width, "middle_channels": width, "out_channels": width}
            regressors[f"regressor{index}"] = {
                "io": "output",
                "path": f"student_model.{stages[index]}",
                "kwargs": {**sizes, "eps": 1e-5, "init_pred_var": 5.0},
            }
        student["auxiliary_model_wrapper"] = {
            "key": "VariationalDistributor4VID",
            "kwargs": {"regressors": regressors},
        }
        hooked = [f"student_model.{path}" for path in stages] + [f"regressor_dict.{name}" for name in regressors]
        student["forward_hook"] = {"input": [], "output": hooked}
        pairs = {f"pair{index}": pair(path, f"regressor_dict.regressor{index}") for index, path in enumerate(stages)}
        loss = {"key": "VIDLoss", "kwargs": {"feature_pairs": pairs, "margin": 1.0}}
        plain["criterion_wrapper"] = wrapped
    else:
        raise SystemExit(f"torchdistill has no {method}, or none that runs on this pair as published")
    return student, {"ce": plain, method: {"criterion": loss, "weight": 1.0}}


_OUTPUT = (("path", "."), ("io", "output"))
