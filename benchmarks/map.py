"""Claim: the 64 maps between the stages of two tiny10 on digits take 140 s of computing.

    python benchmarks/map.py
    python benchmarks/map.py FRONT.pt END.pt DATASET    # with direct matching, measures and attacks

The whole command, start of Python and report included. Without arguments it is the README's, which
attacks nothing. Peak memory is that of its process.
"""

import resource
import subprocess
import sys
import tempfile
import time

from _common import ROOT, told

NETWORKS = [ROOT / f"archive/tiny10/Digits/in{i}-gn{i}/model.pt" for i in (0, 1)]
DIGITS = [*map(str, NETWORKS), "digits", "--no-robustness"]


def main(arguments: list[str] = DIGITS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "src/bin/stitch_map.py", *arguments, "-o", folder]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9
    print(f"the map {seconds:.0f} s, {computed:.0f} s of computing, peak memory {peak:.2f} GB")
    told(computing=computed, seconds=seconds, GB=peak)


if __name__ == "__main__":
    main(sys.argv[1:] or DIGITS)
