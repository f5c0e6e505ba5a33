"""A tiny task: two-tone 8x8 pictures whose class is the brighter quadrant, learnt in seconds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.data import UNLABELLED, ArrayImages, Dataset, Split, Task, eval_batches
from edgekd.distill import RunOptions, TrainSettings, load_recipe, run_recipe
from edgekd.distill.roles import open_session
from edgekd.distill.run import run_stages


def _split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = rng.integers(0, 120, size=(count, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 60
    return Split(
        ArrayImages(images.astype(np.uint8)), labels.astype(np.int64), Task("classification", ("a", "b", "c", "d"))
    )


def quadrants() -> Dataset:
    return Dataset("quadrants", _split(128, 0), _split(48, 1), _split(48, 2), (0.3,), (0.2,), "quadrants")


def partly_labelled(dataset: Dataset, unlabelled: slice) -> Dataset:
    """Return a data set whose training rows have no label where `unlabelled` says so."""
    labels = dataset.train.labels.copy()
    labels[unlabelled] = UNLABELLED
    train = Split(dataset.train.inputs, labels, dataset.task)
    return replace(dataset, train=train, digest=f"{dataset.digest} {unlabelled}")


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return quadrants()


@pytest.fixture(scope="session")
def student() -> NetSpec:
    return NetSpec("resnet", 8, 2, 8, 1, 4, (0.3,), (0.2,))


@pytest.fixture(scope="session")
def settings() -> TrainSettings:
    return TrainSettings(epochs=2, batch_size=32, augment="none", device="cpu")


@pytest.fixture(scope="session")
def teacher(dataset):
    torch.set_num_threads(1)
    spec = NetSpec("resnet", 8, 8, 8, 1, 4, (0.3,), (0.2,))
    outcome = run_recipe(
        load_recipe("plain"),
        student=spec,
        teacher=None,
        dataset=dataset,
        settings=TrainSettings(epochs=6, batch_size=32, augment="none", device="cpu"),
        options=RunOptions(seed=7),
    )
    return spec, outcome.student


@pytest.fixture(scope="session")
def pretrained(dataset, student, settings):
    """Weights of a student that was trained before."""
    options = RunOptions(seed=11)
    outcome = run_recipe(
        load_recipe("plain"), student=student, teacher=None, dataset=dataset, settings=settings, options=options
    )
    return outcome.student.state_dict()


@pytest.fixture(scope="session")
def run(dataset, student, settings, teacher, pretrained):
    """Run a recipe on the tiny task with one seed."""

    def go(recipe, *, with_teacher=True, seed=0, settings=settings, **options):
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        if recipe.needs_pretrained_student:
            options = {"start": pretrained, **options}
        return run_recipe(
            recipe,
            student=student,
            teacher=teacher if with_teacher else None,
            dataset=dataset,
            settings=settings,
            options=RunOptions(seed=seed, **options),
        )

    return go


@pytest.fixture(scope="session")
def train(dataset, student, settings, teacher):
    """Run a recipe on the tiny task to the last epoch and return its session, with every network by role."""

    def go(recipe, *, seed=0, student=student, teacher=teacher, **changed):
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        last = settings.model_copy(update={"select": "last", **changed})
        with torch.random.fork_rng(devices=[]):
            session = open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=seed)
            run_stages(recipe, session, dataset=dataset, settings=last, options=RunOptions(seed=seed))
        return session

    return go


@pytest.fixture(scope="session")
def batch(dataset):
    """The first sixteen training rows."""
    return next(iter(eval_batches(dataset.train, batch_size=16)))
