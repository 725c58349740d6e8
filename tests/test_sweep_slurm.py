"""Arrays of SLURM, by commands that only look like its own: the real one is in tests/cluster."""

import os
import re
import stat
from pathlib import Path

import pytest

from left_behind import names

STUB = Path(__file__).parent / "grid_stub"
PLAN = """
name = "mine"
dataset = "digits"
pairs = [["A", "B"]]
layers = [["relu1", "relu2"]]
seed = [0, 1, 2]
epochs = 1
batch_size = 512
no_robustness = true
[networks]
A = "{}"
B = {{ model = "lenet", epochs = 1, lr = 0.05, batch_size = 512 }}
"""
COMMANDS = {
    "scontrol": """
        if [ "$1" = show ]; then echo "MaxArraySize            = 3"; fi
        echo "$@" >> {log}""",
    "squeue": """
        echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1""",
    "sbatch": """
        echo "$@" >> {log}
        script="${{@: -1}}"
        last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
        for ((task = 0; task <= last; task++)); do
            SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$script" > /dev/null 2>&1
        done
        echo 7""",
}


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Commands of SLURM on the PATH; returns what they are called with."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    for name, text in COMMANDS.items():
        path = folder / name
        path.write_text("#!/bin/bash\n" + text.format(log=log))
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(STUB))
    return lambda: log.read_text().splitlines()


@pytest.fixture
def plan(lenets, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(lenets[0]))
    return path


@pytest.mark.parametrize("wait", [True, False])
def test_two_arrays(wait, pretended, plan, call_script, tmp_path):
    """Networks, then units; a few units a task where an array cannot have more."""
    options = ["--cluster", "slurm", "--sbatch", "--partition=x", *([] if wait else ["--no-wait"])]
    done = call_script("sweep.py", plan, "-o", tmp_path / "out", *options)
    assert (done.status, done.err) == (0, "")
    folder = tmp_path / "out" / "mine"
    assert [line for line in pretended() if "--parsable" in line] == [
        f"--parsable {folder}/slurm/networks-1.sh",
        f"--parsable --dependency=afterany:7 {folder}/slurm/units-1.sh",
    ]
    script = (folder / "slurm" / "units-1.sh").read_text()
    assert script in done.out
    assert "#SBATCH --array=0-1\n" in script and "#SBATCH --partition=x\n" in script
    assert "array 7: 3 units in 2 tasks; squeue -j 7 shows them" in done.out
    assert (folder / "networks/B/model.pt").is_file()
    assert len(list(folder.glob("units/A-B-*/json/*.json"))) == 3
    assert ("4 of 4 done" in done.out) == wait


def test_a_task_that_fails_puts_itself_back(pretended, plan, call_script, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "bin" / "sleep").write_text("#!/bin/bash\n")
    (tmp_path / "bin" / "sleep").chmod(0o755)
    plan.write_text(plan.read_text().replace("epochs = 1\n", "epochs = 1\nlr = 1000\n"))
    options = ["--cluster", "slurm", "-o", tmp_path / "out"]
    done = call_script("sweep.py", plan, *options)
    assert done.status == 1 and done.err.count("lr=1000 is more than the stub takes.") == 3
    put_back = [line for line in pretended() if line.startswith("requeue")]
    assert put_back == ["requeue 7_0", "requeue 7_1"]
    assert names(tmp_path / "out" / "mine" / "slurm") == ["networks-1.sh", "units-1.sh"]


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ("", "SLURM ended it before it began; see that the nodes see {folder} and "),
        (
            'for unit in {folder}/plans/*/*.json; do echo "  Killed here " >> '
            '{folder}/logs/$(basename "$unit" .json).log; done',
            "SLURM ended it without a result, and said last: Killed here",
        ),
    ],
    ids=["blind", "killed"],
)
def test_what_slurm_ends_is_told_with_its_last_words(
    node, told, pretended, plan, call_script, tmp_path
):
    folder = tmp_path / "out" / "mine"
    path = tmp_path / "bin" / "sbatch"
    path.write_text(f"#!/bin/bash\n{node.format(folder=folder)}\necho 7")
    options = ["--cluster", "slurm", "--retries", "0", "-o", tmp_path / "out"]
    done = call_script("sweep.py", plan, *options)
    assert done.status == 1 and told.format(folder=folder) in done.err


def test_no_slurm(plan, call_script, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call_script("sweep.py", plan, "-o", tmp_path / "out", "--cluster", "slurm")
    assert done.status == 2 and re.search("scontrol is not on this machine; start the", done.err)
    assert not (tmp_path / "out").exists()


def test_a_slurm_that_does_not_answer(pretended, plan, call_script, tmp_path):
    path = tmp_path / "bin" / "scontrol"
    path.write_text("#!/bin/bash\necho 'Unable to contact slurm controller' >&2\nexit 1")
    done = call_script("sweep.py", plan, "-o", tmp_path / "out", "--cluster", "slurm")
    assert done.status == 2 and done.err.count("\n") == 1
    assert "scontrol refused: Unable to contact slurm controller; see that SLURM" in done.err
    assert not (tmp_path / "out").exists()
