"""Units as the tasks of an array of SLURM.

An array script is written into the sweep's folder, shown and submitted: networks first, then, when
those are through, the units. A task whose node goes away is put back into the queue by SLURM, one
that fails puts itself back, so that all goes on where nobody waits for it.
"""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import replacing
from robust_stitching.plans.places import LOGS, NETWORKS, PLANS, UNITS
from robust_stitching.runs.engines import Ended, environment, with_last_words
from robust_stitching.runs.units import Unit

LOOK_EVERY = 3.0
SCRIPTS = "slurm"
FOREVER = 10**9

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={threads}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}
{more}
# Task i carries out units i, i + {tasks}, i + 2 * {tasks} and so on. One that another process works
# on is waited for, one that is done is passed by.
units=(
{units}
)
{exports}
cd {folder} || exit 1
status=0
for ((i = SLURM_ARRAY_TASK_ID; i < ${{#units[@]}}; i += {tasks})); do
    unit=${{units[i]}}
    {python} -m robust_stitching.runs.unit {plans}/"$unit".json {kind}/"$unit" \\
        --threads {threads} --wait >> {logs}/"$unit".log 2>&1 || status=$?
done
if [ "$status" -ne 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {retries} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    sleep 60 # until SLURM ends this
fi
exit "$status"
"""


class Slurm:
    """Arrays of SLURM.

    Parameters
    ----------
    folder : of the sweep.
    retries : how often a task that fails is put back.
    options : further ones of ``sbatch``.
    tell : is given what was submitted.
    """

    orders = True

    def __init__(
        self,
        folder: Path,
        threads: int,
        retries: int,
        options: Sequence[str],
        tell: Callable[[str], None],
    ):
        self.folder, self.threads, self.retries = folder, threads, retries
        self.options, self.tell = options, tell
        self._tasks: dict[Unit, tuple[str, int]] = {}
        self.most = _largest_array()

    def room(self) -> int:
        return FOREVER

    def submit(self, units: Sequence[Unit]) -> None:
        networks = [unit for unit in units if unit.kind == NETWORKS]
        after = self._submit(networks, NETWORKS, None) if networks else None
        rest = [unit for unit in units if unit.kind != NETWORKS]
        if rest:
            self._submit(rest, UNITS, after)

    def _submit(self, units: Sequence[Unit], what: str, after: str | None) -> str:
        """Submit one array; returns its number.

        Parameters
        ----------
        after : the array that has to be through before.
        """
        for unit in units:
            unit.log.parent.mkdir(parents=True, exist_ok=True)
        tasks = min(len(units), self.most)
        path = self._write(self.script(units, what, tasks), what)
        command = ["sbatch", "--parsable"]
        command += [f"--dependency=afterany:{after}"] if after else []
        job = _said([*command, str(path)]).partition(";")[0]
        self.tell(f"{shlex.join([*command, str(path)])}\n\n{path.read_text(encoding='utf-8')}")
        self.tell(f"array {job}: {len(units)} {what} in {tasks} tasks; squeue -j {job} shows them")
        self._tasks |= {unit: (job, i % tasks) for i, unit in enumerate(units)}
        return job

    def script(self, units: Sequence[Unit], what: str, tasks: int) -> str:
        """The script of an array."""
        return SCRIPT.format(
            name=f"{self.folder.name}-{what}",
            last=tasks - 1,
            tasks=tasks,
            threads=self.threads,
            log=shlex.quote(str(self.folder / LOGS / "slurm-%A_%a.log")),
            more=f"#SBATCH {shlex.join(self.options)}\n" if self.options else "",
            units="\n".join(unit.name for unit in units),
            folder=shlex.quote(str(self.folder)),
            python=shlex.quote(sys.executable),
            plans=f"{PLANS}/{what}",
            kind=what,
            logs=LOGS,
            exports="\n".join(
                f"export {name}={shlex.quote(value)}"
                for name, value in environment(self.threads).items()
            ),
            retries=self.retries,
        )

    def _write(self, script: str, what: str) -> Path:
        folder = self.folder / SCRIPTS
        numbers = (folder / f"{what}-{number}.sh" for number in itertools.count(1))
        path = next(path for path in numbers if not path.exists())
        with replacing(path) as temporary:
            temporary.write_text(script, encoding="utf-8")
        return path

    def wait(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while True:
            time.sleep(LOOK_EVERY)
            there = self._in_queue()
            over = [unit for unit, task in self._tasks.items() if task not in there]
            over += [unit for unit in self._tasks if unit.is_done() and unit not in over]
            if over or time.monotonic() >= until:
                break
        for unit in over:
            del self._tasks[unit]
        # One that told its error was tried as often as may be; one that did not was killed.
        return [Ended(unit, self._how(unit), again=not unit.ended().get("error")) for unit in over]

    def _how(self, unit: Unit) -> str:
        """How a unit ended, as far as its log tells."""
        if not unit.log.exists():
            return (
                f"SLURM ended it before it began; see that the nodes see {self.folder} and "
                f"{sys.executable} ({LOGS}/slurm-*.log, where there are some, say more)"
            )
        return with_last_words(unit, "SLURM ended it without a result")

    def _in_queue(self) -> set[tuple[str, int]]:
        """The tasks that wait or run: array and number."""
        there = set()
        for job in {job for job, _ in self._tasks.values()}:
            try:
                told = _said(["squeue", "--noheader", "--array", "-j", job, "-o", "%K"])
            except UserError as error:
                if "Invalid job id" in str(error):  # so long over that SLURM has forgotten it
                    continue
                return set(self._tasks.values())  # SLURM does not answer now; it will
            there |= {(job, int(number)) for number in told.split() if number.isdecimal()}
        return there

    def stop(self) -> str:
        jobs = ",".join(dict.fromkeys(job for job, _ in self._tasks.values()))
        return (
            f"SLURM goes on with it: squeue -j {jobs} shows the tasks, scancel {jobs} ends them, "
            "and --status how far it is."
        )


def _said(command: Sequence[str]) -> str:
    """What a command of SLURM prints; UserError with its own words where it fails."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not on this machine; start the sweep where SLURM is, or without "
            "--cluster slurm."
        )
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"{command[0]} refused: {lines[-1]}; see that SLURM runs here.")
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Ours, without what would be options of a job that we are in ourselves."""
    of_jobs = ("SLURM_", "SBATCH_")
    return {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith(of_jobs)}


def _largest_array() -> int:
    """How many tasks an array may have here."""
    for line in _said(["scontrol", "show", "config"]).splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return max(1, int(value) - 1)
    return 1000
