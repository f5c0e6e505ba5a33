"""A device that was provisioned from a repository in memory and brought its files."""

import pytest
from tuf_device import TrustingDevice
from tuf_repository import Repository, sample_bundle


@pytest.fixture
def repository() -> Repository:
    return Repository(sample_bundle())


@pytest.fixture
def device(tmp_path, repository) -> TrustingDevice:
    made = TrustingDevice(tmp_path / "device").provision(repository.roots[1])
    made.push(repository.pour())
    return made
