"""Claim: on two cores, two jobs of a sweep, a thread each, are at least 1.6 times as fast as one.

    python benchmarks/sweep.py [--units 4]

Units are maps of four layers with four, of two tiny10 on digits, one for each seed. Each sweep is
the whole command, starts of Python and reports included.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROOT, told

PLAN = """
name = "speed"
dataset = "digits"
pairs = [["A", "B"]]
layers = ["relu2", "relu4", "relu6", "relu8"]
recipe = "paper"
epochs = 4
no_robustness = true
seed = {seeds}

[networks]
A = "{root}/archive/tiny10/Digits/in0-gn0/model.pt"
B = "{root}/archive/tiny10/Digits/in1-gn1/model.pt"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, default=4)
    units = parser.parse_args().units
    took = {}
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.toml"
        plan.write_text(PLAN.format(root=ROOT.as_posix(), seeds=list(range(units))))
        for jobs in (2, 1):
            out = Path(folder) / str(jobs)
            command = [sys.executable, ROOT / "src/bin/sweep.py", plan, "-o", out]
            began = time.perf_counter()
            subprocess.run([*command, "--jobs", str(jobs)], check=True, capture_output=True)
            took[jobs] = time.perf_counter() - began
            print(f"{units} units, {jobs} at once: {took[jobs]:.0f} s", flush=True)
    print(f"ratio {took[1] / took[2]:.2f}")
    told(ratio=took[1] / took[2])


if __name__ == "__main__":
    main()
