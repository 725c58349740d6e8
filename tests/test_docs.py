"""The pages of documentation: what stands there as a command or as code is run as it stands.

From a copy of the clone, since commands leave what they make in it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from conftest import LEAVE_OUT, REPOSITORY

BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.py)\n")
PAGES = (
    *("networks.md", "library.md", "maps.md", "objectives.md", "verdicts.md"),
    *("training.md", "stitching.md", "comparing.md", "evaluating.md"),
)
NEEDS = ("mnist", "results/", "$")
"""In commands that need files which the copy has not, or a shell."""


@pytest.fixture
def clone(tmp_path):
    for name in (
        "src",
        "config",
        "pyproject.toml",
        *(f"archive/{model}/Digits/in{i}-gn{i}" for model in ("tiny10", "lenet") for i in (0, 1)),
        "archive/lenet/Digits/in0-gn0-trades-eps0.3",
        "archive/resnet_w1/Digits/in0-gn0",
    ):
        source, target = REPOSITORY / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(page, clone):
    env = {key: value for key, value in os.environ.items() if key not in LEAVE_OUT}
    code = []
    for language, text in BLOCK.findall((REPOSITORY / "docs" / page).read_text()):
        file = FILE.match(text)
        if language and file:
            (clone / file[1]).write_text(text)
        elif language:
            code.append(text)
        else:
            commands = (line for line in text.splitlines() if line.startswith("python "))
            for line in commands:
                if any(need in line.lower() for need in NEEDS):
                    continue
                command = [sys.executable, *shlex.split(line)[1:]]
                done = subprocess.run(
                    command, cwd=clone, env=env, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{line}\n{done.stderr}"
    (clone / "page.py").write_text("\n".join(code))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=clone, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
