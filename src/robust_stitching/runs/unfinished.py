"""Runs in the making: nobody sees them until they are whole.

A run is made in ``<out>/.<name>.unfinished/``, locked by its process, and becomes ``<out>/<name>/``
by one rename. Whatever ends the process, there is a whole run or none; what a killed one left is
begun again by the next run of that name.
"""

import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from robust_stitching.basics import locks
from robust_stitching.basics.errors import UserError
from robust_stitching.basics.files import claimed, not_written, slug


class Run:
    """A run in the making.

    Attributes
    ----------
    folder : where its files are written.
    final : where they will be.
    finished : whether they are there.
    """

    def __init__(self, out: Path, name: str):
        self.name, self.final, self.folder = name, out / name, out / f".{name}.unfinished"
        self.lock = locks.Lock(self.folder)
        self.finished = False

    def begin(self) -> bool:
        """Have the folder for oneself, and empty; returns whether an earlier run had left
        something in it.

        Raises
        ------
        Taken : where there is such a run, or another process makes it.
        """
        self._refuse_a_second()
        try:
            self.lock.acquire()
        except locks.Locked as error:
            raise Taken(
                f"the run {self.final} is being made by {error.holder}; wait for it, or choose "
                "another --run-name."
            ) from error
        try:
            self._refuse_a_second()  # it may have been finished between the two looks
            left = self.lock.left_behind is not None or bool(self.written())
            self._remove_content()
        except BaseException:
            self.let_go()
            raise
        return left

    def _refuse_a_second(self) -> None:
        if self.final.exists():
            raise Taken(
                f"the run {self.final} exists already; choose another --run-name, or remove that "
                "folder."
            )

    def written(self) -> list[Path]:
        """What lies in the folder, but for locks."""
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if not path.name.startswith(locks.NAME)]

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

    def let_go(self) -> None:
        """Let the lock go; what was written stays."""
        self.lock.release()
        with suppress(OSError):
            self.folder.rmdir()

    def _remove_content(self) -> None:
        for path in self.written():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


class Taken(UserError):
    """There is a run of that name."""


@contextmanager
def begun(
    out: Path, name: str | None, tell: Callable[[str], None] = lambda text: None
) -> Iterator[Run]:
    """A run to be made below `out`: write below its `folder`, then call its `finish`.

    An interruption before that removes all that was written. An error does not: what was whole by
    then stays in `folder` until the next run of that name.

    Parameters
    ----------
    name : of the folder; the date and time for None.
    tell : is called with what the user should know.

    Raises
    ------
    UserError : for a name that is taken or no plain name, or where `out` cannot be written.
    KeyboardInterrupt : when interrupted, with a word on how to begin again.
    """
    with claimed(out):
        run = _begin(out, name, tell)
        keep = False
        try:
            yield run
        except KeyboardInterrupt:
            if run.finished:
                raise KeyboardInterrupt(f"the run {run.final} is whole.") from None
            again = "" if name else f" with --run-name {run.name}"
            raise KeyboardInterrupt(
                f"nothing was kept of this run; the same command{again} begins it again."
            ) from None
        except Exception:
            keep = not run.finished and bool(run.written())
            if keep:
                tell(f"what was whole by then stays in {run.folder} until it is begun again.")
            raise
        finally:
            if keep:
                run.let_go()
            elif not run.finished:
                run.give_up()


def _begin(out: Path, name: str | None, tell: Callable[[str], None]) -> Run:
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    names = itertools.chain([now], _numbered(now)) if name is None else [_plain(name)]
    for candidate in names:
        run = Run(out, candidate)
        try:
            if run.begin():
                tell(f"an earlier run {run.name} was broken off; it is begun again.")
            return run
        except Taken:
            if name is not None:
                raise
    raise AssertionError("numbers do not end")


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}_{number}" for number in itertools.count(2))


def _plain(name: str) -> str:
    if not name or slug(name) != name or name.startswith("."):
        raise UserError(
            f"--run-name '{name}' is no plain folder name; use letters, digits, '_', '-' and, "
            "but for the first sign, '.'."
        )
    return name
