"""What CONTRIBUTING.md tells to add works as it stands there."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import REPOSITORY
from robust_stitching import models

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"^```python\n# (src/\S+\.py)\n(.*?)^```$", TEXT, re.M | re.S))


@pytest.fixture
def copied(tmp_path):
    """A copy of the clone to which an example is added, and a way to run Python there."""
    shutil.copytree(REPOSITORY / "src", tmp_path / "src")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)

    def python(example, code):
        added = tmp_path / example
        assert added.parent.is_dir() and not added.exists()
        added.write_text(EXAMPLES[example])
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


def test_every_example_is_a_file():
    """Else a block whose first line is written otherwise would be left out silently."""
    assert len(EXAMPLES) == TEXT.count("```python")


MODEL = """
from robust_stitching import models
from robust_stitching.command_line import eval_net, layer_info, train
layer_info.main(["plain3", "--clean"])
train.main(["-m", "plain3", "-d", "digits", "-e", "3", "--device", "cpu"])
eval_net.main(["snapshots/plain3/Digits/in0-gn0/model.pt", "--device", "cpu"])
network = models.build("plain3", num_classes=10, in_channels=1)
print(f"{sum(p.numel() for p in network.parameters()):,} parameters")
"""


def test_a_model_is_one_file(copied):
    out = copied("src/robust_stitching/models/plain3.py", MODEL)
    assert "plain3" not in models.names()
    assert re.search(r"^relu3 +ReLU +64×4×4 +clean$", out, re.MULTILINE)
    accuracy = re.search(r"^plain3 +Digits \(test\) +360 +([\d.]+)%", out, re.MULTILINE)
    assert float(accuracy[1]) > 50
    parameters = re.search(r"^([\d,]+ parameters)$", out, re.MULTILINE)[1]
    assert f"{parameters} for grey images and 10 classes" in TEXT


TERM = """
from robust_stitching.plans import Objective
from robust_stitching.stitching.terms import terms_of
from robust_stitching.command_line import find_transform
(term,) = terms_of(Objective(terms=("bias=0.5",)))
print(term.name, "bias" in find_transform.parser().format_help())
"""


def test_a_term_is_one_file(copied):
    assert copied("src/robust_stitching/stitching/terms/bias.py", TERM) == "bias True\n"
