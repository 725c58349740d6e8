"""A unit of a sweep as a process: ``python -m robust_stitching.runs.unit PLAN.json FOLDER``.

It carries out the plan, whatever its kind, into the folder. Run again it goes on with what is half
done, and takes what is done as it is. Every engine does this and nothing else.
"""

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from robust_stitching.basics.errors import UserError, first_line
from robust_stitching.basics.files import NotWritten
from robust_stitching.basics.locks import Locked
from robust_stitching.basics.signals import raise_interruptions
from robust_stitching.plans import ComparePlan, GridPlan, StitchPlan, TrainPlan
from robust_stitching.plans.written import kind_in, read
from robust_stitching.runs.units import BUSY, forget_end, note_end

PLANS = {plan.KIND: plan for plan in (TrainPlan, StitchPlan, ComparePlan, GridPlan)}
INTERRUPTED = 130
WAIT = 5.0


def main(argv: list[str]) -> int:
    """Carry out the unit that a command line names; returns the exit status."""
    p = argparse.ArgumentParser(prog="python -m robust_stitching.runs.unit", description=__doc__)
    p.add_argument("plan", type=Path, help="its plan as JSON")
    p.add_argument("folder", type=Path, help="where its result goes")
    p.add_argument("--threads", type=int, default=1, help="how many cores to compute with")
    p.add_argument("--wait", action="store_true", help="wait for another process that works on it")
    p.add_argument("--attached", action="store_true", help="stop when the standard input ends")
    args = p.parse_args(argv)
    raise_interruptions()
    if args.attached:
        threading.Thread(target=_stop_with_input, daemon=True).start()
    status = _status_of(args)
    while status == BUSY and args.wait:
        time.sleep(WAIT)
        status = _status_of(args)
    return status


def _status_of(args: argparse.Namespace) -> int:
    began = time.monotonic()
    forget_end(args.folder)
    try:
        _carry_out(args.plan, args.folder, args.threads)
        status, error = 0, None
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return INTERRUPTED
    except UserError as refused:
        print(refused, file=sys.stderr)
        if isinstance(refused.__cause__, Locked):
            return BUSY
        status, error = 2, str(refused)
    except Exception as failure:
        traceback.print_exc()
        status, error = 1, first_line(failure)
    with suppress(NotWritten):  # on a full disk the log has told the error
        note_end(args.folder, time.monotonic() - began, error)
    return status


def _carry_out(path: Path, folder: Path, threads: int) -> None:
    kind = PLANS.get(kind_in(path))
    if kind is None:
        raise UserError(f"the plan in {path} is none of a unit; its kind is {kind_in(path)!r}.")
    plan = read(path, kind)
    import torch

    from robust_stitching.runs.listener import Listener

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = import_module(f"robust_stitching.runs.{kind.KIND}").run

    def told(*sentences: object) -> None:
        for sentence in sentences:
            print(sentence, flush=True)

    listener = Listener(say=told, tell=told, warn=told)
    if kind is TrainPlan:
        run(plan, folder.parent, device, listener, folder=folder, resume=True, reuse=True)
        return
    command = f"python -m robust_stitching.runs.unit {path} {folder}"
    done = run(plan, folder.parent, device, listener, name=folder.name, command=command, reuse=True)
    if done.amiss is not None:
        told(done.amiss)


def _stop_with_input() -> None:
    """Wait for the process that started us to end, however it does, and stop as if it asked."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
