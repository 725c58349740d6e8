"""Runs in the making: nobody sees them until they are whole.

A run is made in ``<out>/.<name>.unfinished/``, locked by its process, and becomes ``<out>/<name>/``
by one rename. Whatever ends the process, there is a whole run or none. The folder says by which
plan, and holds states in ``state/``: the next run of that name and plan goes on from them.
"""

import errno
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robust_stitching.basics import locks
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import claimed, not_written, slug, write_json
from robust_stitching.plans import as_values, differences, from_values, identity
from robust_stitching.plans.settings import Settings
from robust_stitching.runs.done import done_in
from robust_stitching.training import Diverged

LONGEST = 200
"""Bytes of a run's name: the folder in which it is made has a longer one, of 255 at most."""

PLAN, STATE = "plan.json", "state"


class Run:
    """A run in the making.

    Attributes
    ----------
    plan, circumstances : what is made, and what else a state depends on, as plain values; a state
        is gone on with only where both are the same.
    folder : where its files are written.
    state : where states are kept that a later run can go on from.
    final : where they will be.
    finished : whether they are there.
    goes_on : whether there are states of an earlier run.
    """

    def __init__(self, out: Path, name: str, plan: Settings, circumstances: Mapping[str, Any]):
        self.plan, self.circumstances = plan, dict(circumstances)
        self.name, self.final, self.folder = name, out / name, out / f".{name}.unfinished"
        self.state = self.folder / STATE
        self.lock = locks.Lock(self.folder)
        self.finished = self.goes_on = False

    def begin(self) -> bool:
        """Have the folder for oneself, with nothing in it but states to go on from; returns whether
        an earlier run had left something else in it.

        Raises
        ------
        Taken : where there is such a run, or another process makes it, or one of another plan was
            left unfinished.
        """
        self._refuse_a_second()
        try:
            self.lock.acquire()
        except locks.Locked as error:
            raise Taken(
                f"the run {self.final} is being made by {error.holder}; wait for it, or choose "
                "another `run_name`."
            ) from error
        try:
            self._refuse_a_second()  # it may have been finished between the two looks
            self.goes_on = self._can_go_on()
            left = self.lock.left_behind is not None or bool(self.written())
            if self.goes_on:
                self.keep_states()
            else:
                self._remove_content()
                about = {"plan": as_values(self.plan), "circumstances": self.circumstances}
                write_json(self.folder / PLAN, about)
        except BaseException:
            self.let_go()
            raise
        return left and not self.goes_on

    def _refuse_a_second(self) -> None:
        if not self.final.exists():
            return
        _remove_states(self.final)
        done = done_in(self.final)
        before = done and done.plan(type(self.plan))
        if before is None:
            what = "exists already; choose another `run_name`, or remove that folder"
        elif changed := differences(before, self.plan):
            what = (
                f"was made by another plan ({'; '.join(changed)}); choose another `run_name`, or "
                "remove that folder"
            )
        else:
            what = (
                "exists already, and was made by the same plan; take it as it is with `reuse`, "
                "choose another `run_name`, or remove that folder"
            )
        raise Taken(f"the run {self.final} {what}.")

    def _can_go_on(self) -> bool:
        """Whether the folder holds states of this plan.

        Raises
        ------
        Taken : where it holds those of another one.
        """
        if not self.has_states():
            return False
        about = about_of(self.folder)
        try:
            before, was = from_values(type(self.plan), about["plan"]), dict(about["circumstances"])
        except (UserError, KeyError, TypeError, ValueError):
            return False
        changed = differences(before, self.plan)
        changed += [
            f"{name} was {was.get(name)} and is {value}"
            for name, value in self.circumstances.items()
            if was.get(name) != value
        ]
        if changed:
            raise Taken(
                f"{self.folder} was begun by another plan ({'; '.join(changed)}); take the same "
                "one, choose another `run_name`, or remove that folder."
            )
        return True

    def written(self) -> list[Path]:
        """What lies in the folder, but for locks."""
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if not path.name.startswith(locks.NAME)]

    def has_states(self) -> bool:
        """Whether there are states to go on from."""
        return self.state.is_dir() and any(self.state.iterdir())

    def has_work(self) -> bool:
        """Whether anything but the plan lies in the folder."""
        return any(path.name != PLAN for path in self.written())

    def finish(self, paths: Mapping[str, Path]) -> dict[str, Path]:
        """Make the run visible, and let the lock go.

        Parameters
        ----------
        paths : what was written below `folder`, by kind.

        Returns
        -------
        where that is now.
        """
        try:
            self.lock.check()
            self.final = self._renamed()
        except OSError as error:
            raise not_written(self.final, error) from error
        self.finished = True
        _remove_states(self.final)
        self.lock.moved(self.final)
        self.lock.release()
        for left in self.final.glob(f"{locks.NAME}.*"):  # of others who tried to lock the folder
            left.unlink(missing_ok=True)
        return {kind: self.final / path.relative_to(self.folder) for kind, path in paths.items()}

    def _renamed(self) -> Path:
        """Rename the folder; to another name where somebody has made a folder of that one in the
        meantime, so that no work is lost."""
        for name in itertools.chain([self.name], _numbered(self.name)):
            final = self.final.with_name(name)
            if final.exists():
                continue
            try:
                os.rename(self.folder, final)
                return final
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
        raise AssertionError("numbers do not end")

    def give_up(self) -> None:
        """Remove what was written, and let the lock go."""
        with suppress(OSError, locks.LockLost):
            self.lock.check()
            self._remove_content()
        self.let_go()

    def keep_states(self) -> None:
        """Remove all that was written but what a later run goes on from."""
        self._remove_content(but=(STATE, PLAN))

    def let_go(self) -> None:
        """Let the lock go; what was written stays."""
        self.lock.release()
        with suppress(OSError):
            self.folder.rmdir()

    def _remove_content(self, but: Collection[str] = ()) -> None:
        for path in self.written():
            if path.name in but:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _remove_states(final: Path) -> None:
    """Remove the states of a whole run. They become visible with it, so that nothing is lost by
    being killed between the two."""
    if (final / PLAN).is_file():
        shutil.rmtree(final / STATE, ignore_errors=True)
        with suppress(OSError):
            (final / PLAN).unlink()


class Taken(UserError):
    """There is a run of that name."""


def about_of(folder: Path) -> dict[str, Any]:
    """What an unfinished run says of itself; empty where it says nothing that can be read."""
    try:
        about = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


@contextmanager
def begun(
    out: Path,
    name: str | None,
    plan: Settings,
    *,
    circumstances: Mapping[str, Any] | None = None,
    resume: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Run]:
    """A run to be made below `out`: write below its `folder`, then call its `finish`.

    An interruption before that removes all that was written but the states, from which the same
    plan goes on under the same name. An error also leaves what was whole by then, but where a
    training diverged: it would do so again.

    Parameters
    ----------
    name : of the folder; the date and time for None.
    circumstances : see `Run`.
    resume : without a name, go on with an unfinished run of this plan, where there is one.
    tell : is called with what the user should know.

    Raises
    ------
    UserError : for a name that is taken or no plain name, or where `out` cannot be written.
    KeyboardInterrupt : when interrupted, with a word on how to go on or begin again.
    """
    with claimed(out):
        if name is None and resume:
            name = _unfinished_name(out, plan)
        run = _begin(out, name, plan, circumstances or {}, tell)
        keep = False
        try:
            yield run
        except KeyboardInterrupt:
            if run.finished:
                raise KeyboardInterrupt(f"the run {run.final} is whole.") from None
            keep = run.has_states()
            if keep:
                run.keep_states()
            again = "" if name else f" with run_name={run.name!r}"
            what = "goes on from where it was" if keep else "begins it again"
            kept = f"its state is in {run.folder}" if keep else "nothing was kept of this run"
            raise KeyboardInterrupt(f"{kept}; the same command{again} {what}.") from None
        except Exception as error:
            keep = not isinstance(error, Diverged) and not run.finished and run.has_work()
            if keep:
                tell(f"what was whole by then stays in {run.folder} until it is begun again.")
            raise
        finally:
            if keep:
                run.let_go()
            elif not run.finished:
                run.give_up()


def _unfinished_name(out: Path, plan: Settings) -> str | None:
    """The name of an unfinished run of a plan; None where there is none."""
    for folder in sorted(out.glob(".*.unfinished")):
        try:
            before = from_values(type(plan), about_of(folder).get("plan"))
        except UserError:
            continue
        if identity(before) == identity(plan):
            return folder.name.removeprefix(".").removesuffix(".unfinished")
    return None


def _begin(
    out: Path,
    name: str | None,
    plan: Settings,
    circumstances: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Run:
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    names = itertools.chain([now], _numbered(now)) if name is None else [plain(name)]
    for candidate in names:
        run = Run(out, candidate, plan, circumstances)
        try:
            if run.begin():
                tell(f"an earlier run {run.name} was broken off; it is begun again.")
            elif run.goes_on:
                tell(f"an earlier run {run.name} was broken off; it is gone on with.")
            return run
        except Taken:
            if name is not None:
                raise
    raise AssertionError("numbers do not end")


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}_{number}" for number in itertools.count(2))


def plain(name: str, what: str = "run_name") -> str:
    """The name of a run, as it is; UserError for one that is no plain name of a folder.

    Parameters
    ----------
    what : the setting that it is the value of.
    """
    if len(os.fsencode(name)) > LONGEST:
        raise UserError(f"{what}={name[:20]!r}… has more than {LONGEST} bytes; take a shorter one.")
    if not name or slug(name) != name or name.startswith("."):
        raise UserError(
            f"{what}={name!r} is no plain folder name; use letters, digits, '_', '-' and, "
            "but for the first sign, '.'."
        )
    return name
