"""How long and how fast to train: everything a run decides that a recipe does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from edgekd.core.config import StrictModel

_CACHE = {"augment_views", "augment_seed", "teacher_cache", "cache_top_k", "cache_dtype", "cache_limit_gb"}


class TrainSettings(StrictModel):
    """Optimisation settings of a run. A recipe's stages scale `epochs` and `lr`.

    The defaults of momentum, weight decay and milestones are those of the CIFAR-100 protocol that most of the
    distillation literature shares (240 epochs, decays at 150, 180, 210).
    """

    epochs: int = Field(30, ge=1, description="Epochs of a stage of length 1.")
    batch_size: int = Field(64, ge=2, description="Samples in one step of the optimiser, of all processes together.")
    accumulate: int = Field(1, ge=1, description="Parts that a batch is worked through in, one after the other.")
    auto_batch: bool = Field(False, description="Take the largest batch that fits in memory instead of batch_size.")
    memory_mb: int | None = Field(None, ge=1, description="Memory that auto_batch may fill; needed on a CPU.")
    lr: float = Field(0.05, gt=0, description="Peak learning rate of a stage of scale 1.")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd; adamw keeps its usual 0.9 and 0.999.")
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["multistep", "cosine", "wsd", "constant"] = "cosine"
    milestones: tuple[float, ...] = Field(
        (0.625, 0.75, 0.875), description="Shares of a stage where multistep decays by 10."
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of a stage in which the learning rate rises linearly.")
    decay: float = Field(0.2, gt=0, le=1, description="Share of a stage at its end in which wsd falls linearly.")
    lr_floor: float = Field(0.0, ge=0, lt=1, description="Share of the peak at which cosine and wsd end.")
    layer_decay: float = Field(1.0, gt=0, le=1, description="Multiple of the rate for each stage of a network down.")
    student_lr: float | None = Field(
        None,
        gt=0,
        description="Multiple of the rate for the student's layers; 1 by default, 0.1 for one cut from the teacher, "
        "0.02 where that has no normalisation layers.",
    )
    layer_lr: Mapping[str, float] = Field(
        {}, description="Multiples of the learning rate by module path of the student; 0 holds a layer."
    )
    ema: float | None = Field(None, gt=0, lt=1, description="Decay of averaged weights, which are evaluated and kept.")
    ema_warmup: bool = Field(True, description="Let the average follow quickly at first: (1 + t) / (10 + t) at most.")
    mixup: float = Field(0.0, ge=0, description="Alpha of mixup; 0 is off. With cutmix too, a coin decides.")
    cutmix: float = Field(0.0, ge=0, description="Alpha of cutmix; 0 is off.")
    augment: str = Field("auto", description="Augmentation by name; auto takes the data set's.")
    augment_views: int | None = Field(
        None, ge=1, description="Views of a sample: its augmentations come again after so many epochs."
    )
    augment_seed: int | None = Field(
        None, ge=0, description="Seed of the views; the run's own by default, a shared one lets seeds share a cache."
    )
    teacher_cache: str | None = Field(
        None,
        min_length=1,
        description="Folder where teacher outputs are kept and read; auto is one of the user's.",
    )
    cache_top_k: int | None = Field(
        None, ge=1, description="Logits kept of a teacher's, the largest and the mass of the rest; all by default."
    )
    cache_dtype: Literal["fp16", "fp32"] = Field("fp16", description="Type that teacher outputs are kept in.")
    cache_limit_gb: float = Field(50.0, gt=0, description="Most that one stage may keep of teacher outputs.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision of the forward pass.")
    max_grad_norm: float | None = Field(None, gt=0)
    select: Literal["best", "last"] = Field("best", description="Which epoch to keep, judged on the held-out split.")
    patience: int | None = Field(None, ge=1, description="End a stage after so many epochs without a better score.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    resident: bool = Field(False, description="Keep the training pictures on the device and change them there.")
    channels_last: bool | None = Field(
        None,
        description="Lay maps out channels last; by default on x86 and in mixed precision, where networks take it.",
    )
    compile: Literal["no", "default", "reduce-overhead", "max-autotune"] = Field(
        "no", description="Compile the networks' training passes, in this mode of torch.compile."
    )
    cuda_graphs: bool = Field(False, description="Replay the frozen networks' passes as CUDA graphs.")
    sync_batch_norm: bool = Field(True, description="Share batch statistics between processes.")
    shard_frozen: bool = Field(False, description="Share networks that never train out among processes (FSDP).")
    threads: int | None = Field(None, ge=1, description="CPU threads; one for small networks, else all, by default.")
    workers: int = Field(0, ge=0, description="Processes that make batches ahead; the batches stay the same.")
    log_every: int = Field(50, ge=1, description="Steps between two lines of losses in log.jsonl and trackers.")
    checkpoint_every_s: float = Field(60.0, ge=0, description="Seconds between two states kept to go on from.")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the last states to keep.")

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide the weights: not where what lies, how batches are made, or what is kept."""
        others = {"workers", "log_every", "checkpoint_every_s", "keep_checkpoints", "memory_mb", "shard_frozen"}
        left_out = others | _CACHE
        deciding = self.model_dump(mode="json", exclude=left_out)
        # What is off is left out, so that a run without it has the key that it had before there was such a thing.
        if self.student_lr is None:
            del deciding["student_lr"]
        if self.teacher_cache is not None:
            deciding["teacher_cache"] = [self.cache_dtype, self.cache_top_k]
        if self.teacher_cache is not None or self.augment_views is not None:
            deciding["augment_views"] = [self.augment_views, self.augment_seed]
        return deciding
