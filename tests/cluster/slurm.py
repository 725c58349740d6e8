"""A sweep by a real SLURM on this machine, where a node and a task are killed meanwhile.

    sudo python tests/cluster/slurm.py [FOLDER]

Installs Debian's slurm-wlm and munge where they are missing, starts a controller and two nodes of
their own in FOLDER (a temporary one by default), runs a sweep of twenty units, kills a node with
all that runs on it, and the process of a task on the other. All results have to be there, once, and
equal to those of `--jobs 1`. It has to be root, takes about ten minutes, and ends what it started.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SWEEP = REPOSITORY / "src" / "bin" / "sweep.py"
STUB = REPOSITORY / "tests" / "grid_stub"
UNITS = 20

PLAN = f"""
name = "sweep"
dataset = "digits"
pairs = [["A", "B"]]
layers = [["relu1", "relu2"]]
seed = {list(range(UNITS))}
epochs = 1
batch_size = 512
no_robustness = true

[networks]
A = "{REPOSITORY}/archive/lenet/Digits/in0-gn0/model.pt"
B = {{ model = "lenet", epochs = 1, lr = 0.05, batch_size = 512 }}
"""

CONF = """
ClusterName=sweeps
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort=26817
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
NodeName=n1 NodeHostname={host} Port=27001 CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} Port=27002 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A controller and two nodes, and munge for them to know each other."""

    def __init__(self, folder: Path):
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        for name in ("munge", "state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        self.conf.write_text(CONF.format(host=socket.gethostname(), folder=self.folder))
        os.environ["SLURM_CONF"] = str(self.conf)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = self.folder / "munge"
        files = [f"--{kind}={munge / name}" for kind, name in MUNGE.items()]
        self._run("munged", "--foreground", "--force", f"--key-file={key}", *files)
        wait_until(lambda: (munge / "socket").exists(), "munge")
        self._run("slurmctld", "-D", "-f", str(self.conf))
        for node in ("n1", "n2"):
            self.start_node(node)
        wait_until(lambda: idle() == 2, "the two nodes")

    def start_node(self, node: str) -> None:
        self._run(node, "-D", "-N", node, "-f", str(self.conf), program="slurmd")

    def _run(self, name: str, *arguments: str, program: str | None = None) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [program or name, *arguments], stdout=out, stderr=out, start_new_session=True
            )

    def kill_node(self, node: str) -> None:
        """End a node as a power cut does: its daemon, and all that runs on it."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        for pid in processes_on(node):
            for each in (parent_of(pid), pid):
                if "slurmstepd" in command_of(each) or each == pid:
                    os.kill(each, signal.SIGKILL)

    def stop(self) -> None:
        for node in ("n1", "n2"):
            for pid in processes_on(node):
                os.kill(pid, signal.SIGKILL)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


MUNGE = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def processes_on(node: str) -> list[int]:
    """The processes of tasks on a node of ours, those that were started first in front."""
    return [
        pid
        for pid in pids()
        if f"SLURMD_NODENAME={node}\0".encode() in read(pid, "environ")
        and f"SLURM_CONF={os.environ['SLURM_CONF']}\0".encode() in read(pid, "environ")
    ]


def pids() -> Iterator[int]:
    yield from sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def command_of(pid: int) -> str:
    return read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")


def parent_of(pid: int) -> int:
    return int(read(pid, "stat").rpartition(b")")[2].split()[1] or 0)


def idle() -> int:
    told = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True)
    return told.stdout.split().count("idle")


def wait_until(true, what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            sys.exit(f"{what} does not come within {seconds:.0f} s")
        time.sleep(0.5)


def results(folder: Path) -> dict:
    """Unit to what it measured."""
    found = {}
    for path in sorted(folder.glob("units/[!.]*/json/*.json")):
        (cell,) = json.loads(path.read_text())["cells"]
        found[path.parents[1].name] = {
            key: cell[key] for key in ("seed", "front", "end", "stitched", "direct_matching", "cka")
        }
    return found


def install() -> None:
    if all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        return
    for command in ("update", "install -y --no-install-recommends slurm-wlm munge"):
        subprocess.run(["apt-get", *command.split()], check=True)


def sweep(plan: Path, out: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, SWEEP, plan, "-o", out, *options])


def main(folder: Path) -> None:
    install()
    plan = folder / "plan.toml"
    plan.write_text(PLAN)
    os.environ["PYTHONPATH"] = str(STUB)
    cluster, there = Cluster(folder / "cluster"), folder / "there" / "sweep"
    cluster.folder.mkdir()
    try:
        cluster.start()
        running = sweep(plan, there.parent, "--cluster", "slurm", "--sbatch", "--comment=ours")
        assert running.poll() is None
        wait_until(lambda: len(results(there)) >= 3 and processes_on("n1"), "a third result", 600)
        print("— node n1 is killed", flush=True)
        cluster.kill_node("n1")
        units = lambda: [p for p in processes_on("n2") if "runs.unit" in command_of(p)]  # noqa: E731
        wait_until(units, "a unit on n2")
        victim = next(pid for pid in units() if "bash" not in command_of(pid))
        print(f"— the unit's process {victim} on n2 is killed", flush=True)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "down" in states(), "the news of n1")
        cluster.start_node("n1")
        print("— node n1 is back", flush=True)
        assert running.wait(1200) == 0
    finally:
        cluster.stop()
    assert len(results(there)) == UNITS and not list(there.glob("units/.*.unfinished"))
    alone = folder / "alone" / "sweep"
    assert sweep(plan, alone.parent, "--jobs", "1").wait(1200) == 0
    assert results(there) == results(alone)
    print(f"all {UNITS} results are there, once, and equal to those of --jobs 1")


def states() -> str:
    return subprocess.run(["sinfo", "-h", "-N"], capture_output=True, text=True).stdout


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
