"""A sweep by a Ray cluster of two nodes, of which a worker is killed and a node goes away."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
pytestmark = pytest.mark.slow

STUB = Path(__file__).parent / "grid_stub"
PLAN = """
name = "mine"
dataset = "digits"
pairs = [["A", "B"]]
layers = [["relu1", "relu2"]]
seed = {}
epochs = 1
batch_size = 512
no_robustness = true
[networks]
A = "{}"
B = {{ model = "lenet", epochs = 1, lr = 0.05, batch_size = 512 }}
"""


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(STUB))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def results(folder):
    found = {}
    for path in sorted(folder.glob("units/[!.]*/json/*.json")):
        (cell,) = json.loads(path.read_text())["cells"]
        found[path.parents[1].name] = {
            key: cell[key] for key in ("seed", "front", "end", "stitched", "direct_matching", "cka")
        }
    return found


def working(folder):
    """The processes of units."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                words = (path / "cmdline").read_bytes().decode().split("\0")
            except (OSError, UnicodeDecodeError):
                continue
            if "robust_stitching.runs.unit" in words and any(str(folder) in w for w in words):
                found.append(int(path.name))
    return sorted(found)


def wait_until(true, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_all_is_done_whatever_goes_away(cluster, process_of, lenets, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(list(range(8)), lenets[0]))
    folder = tmp_path / "there" / "mine"
    options = ["-o", folder.parent, "--cluster", f"ray:{cluster.address}"]
    process = process_of("sweep.py", plan, *options)
    wait_until(lambda: results(folder) and working(folder), process)
    victim = working(folder)[0]
    worker = int(Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    done = len(results(folder))
    wait_until(lambda: len(results(folder)) > done and victim not in working(folder), process)
    node = next(node for node in cluster.list_all_nodes() if node != cluster.head_node)
    cluster.remove_node(node, allow_graceful=False)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert "9 of 9 done" in out
    assert len(results(folder)) == 8 and not list(folder.glob("units/.*.unfinished"))
    alone = process_of("sweep.py", plan, "-o", tmp_path / "alone")
    alone.communicate(timeout=400)
    assert results(tmp_path / "alone" / "mine") == results(folder)


def test_a_cluster_that_does_not_answer(call_script, lenets, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format([0], lenets[0]))
    for address in ("127.0.0.1:9", "nowhere", "ray://127.0.0.1:9"):
        done = call_script("sweep.py", plan, "-o", tmp_path / "out", "--cluster", f"ray:{address}")
        assert done.status == 2 and f"the Ray cluster {address} does not answer (" in done.err
        assert done.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_interruption_stops_what_it_has_begun(monkeypatch, process_of, lenets, tmp_path):
    """On a cluster that the sweep starts by itself."""
    monkeypatch.setenv("PYTHONPATH", str(STUB))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format([0], lenets[0]).replace("epochs = 1, lr", "epochs = 9000, lr"))
    folder = tmp_path / "out" / "mine"
    process = process_of("sweep.py", plan, "-o", tmp_path / "out", "--cluster", "ray")
    wait_until((folder / "networks" / "B" / "resume.pt").exists, process)
    assert len(working(folder)) == 1
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on from what is there.\n" in err
    deadline = time.monotonic() + 30
    while working(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (folder / "networks" / "B" / ".lock").exists()  # it was asked to stop, not killed
