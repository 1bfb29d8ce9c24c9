import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real CIFAR-10 and CamVid, named by $FGP_DATA."""
    root = os.environ.get("FGP_DATA")
    if root and (Path(root) / "cifar10.zip").exists() and (Path(root) / "camvid.zip").exists():
        return Path(root)
    if os.environ.get("CI"):
        pytest.fail("FGP_DATA names no folder with cifar10.zip and camvid.zip; in CI the tests on real data must run")
    pytest.skip("set FGP_DATA to a folder with cifar10.zip and camvid.zip to run this test")
