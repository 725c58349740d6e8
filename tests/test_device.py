"""The tests of `on_a_device.py`, in processes that know of the device before anything else."""

import subprocess
import sys

import pytest
from torch.utils import backend_registration

from conftest import REPOSITORY

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch knows no devices that are written in Python",
)


@pytest.mark.parametrize(
    "which", ["training or strict", "attacks", "stitches", "maps or steps_of", "comparisons"]
)
def test_on_a_device(which):
    path = REPOSITORY / "tests" / "on_a_device.py"
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(path), "-k", which],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
