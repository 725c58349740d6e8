"""One process at a time in a folder, on one machine or on several that share it.

The lock of a folder is the file ``.lock`` in it: whose it is, as JSON, created exclusively and
touched every `TOUCHED_EVERY` seconds. It is stale, and the next one may take it over, when its
process is gone from this machine, or, on another machine, when nobody touched it for `STALE_AFTER`
seconds. Ages are differences between times that the file system gave, not the clocks of machines.
"""

import errno
import json
import os
import platform
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from robust_stitching.basics.errors import UserError

NAME = ".lock"
TOUCHED_EVERY = 20.0
STALE_AFTER = 180.0
LOOKED_EVERY = 0.1


@dataclass(frozen=True)
class Holder:
    """Whose a lock is.

    Attributes
    ----------
    system : tells machines of one name, and containers on one machine, apart.
    started : when the process was started, as the system counts; None where it does not say. A
        process with the number `pid` that was started at another time is another one.
    token : of this lock alone.
    since : when it was locked, for people.
    """

    host: str
    system: str
    pid: int
    started: str | None
    token: str
    since: str

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host}" if self.pid else "somebody who left no name"
        return f"{who}, since {self.since}"


class Locked(UserError):
    """Another process works in a folder; `holder` is whose lock it is."""

    def __init__(self, folder: Path, holder: Holder):
        super().__init__(f"{folder} is in use by {holder}.")
        self.holder = holder


class LockLost(UserError):
    """A lock that was ours was taken over, for example because this machine slept."""


class Lock:
    """The lock of a folder, to be held by ``with locked(folder)``.

    Attributes
    ----------
    path : the lock's file.
    left_behind : the holder of a stale lock that was taken over, if there was one.
    """

    def __init__(self, folder: Path):
        self.moved(folder)
        self.holder = _this_process()
        self.left_behind: Holder | None = None
        self._released = threading.Event()

    def moved(self, folder: Path) -> None:
        """Tell the lock where its folder is."""
        self.path = Path(os.path.abspath(folder)) / NAME

    def acquire(self, wait: float = 0) -> None:
        """Lock the folder, or raise `Locked` when it is not free within `wait` seconds."""
        deadline = time.monotonic() + wait
        while (other := self._attempt_in_folder()) is not None:
            if time.monotonic() >= deadline:
                raise Locked(self.path.parent, other)
            time.sleep(LOOKED_EVERY)
        _held.add(self)
        threading.Thread(target=self._keep_touching, daemon=True).start()

    def check(self) -> None:
        """Raise `LockLost` unless the lock is still ours; one that was removed is made again."""
        other = self._attempt(take_over=False)
        if other is not None:
            raise LockLost(
                f"{self.path.parent} was taken over by {other}; this process writes nothing more "
                "there."
            )

    def release(self) -> None:
        """Let others have it; a lock that is no longer ours stays."""
        self._released.set()
        _held.discard(self)
        with suppress(OSError):
            if self._is_ours():
                self.path.unlink()

    def _is_ours(self) -> bool:
        held = _read(self.path)
        return held is not None and held[0].token == self.holder.token

    def _attempt(self, take_over: bool = True) -> Holder | None:
        """Lock the folder if it is free; returns who else has it."""
        if self._is_ours():
            return None
        own = self.path.with_name(f"{NAME}.{self.holder.token}")
        try:
            own.write_text(json.dumps(asdict(self.holder)), encoding="utf-8")
            return _taken(self.path, own, self, take_over)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(
                f"{self.path.parent} cannot be locked ({error.strerror or error}); make room there "
                "or choose another place."
            ) from error
        finally:
            with suppress(OSError):
                own.unlink(missing_ok=True)

    def _attempt_in_folder(self) -> Holder | None:
        """The same, in a folder that is made where it is missing, and that others may remove."""
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                return self._attempt()

    def _keep_touching(self) -> None:
        while not self._released.wait(TOUCHED_EVERY):
            with suppress(OSError, UserError):  # the file system may be back for the next touch
                if self._is_ours():
                    os.utime(self.path)


_held: set[Lock] = set()
"""The locks of this process, so that whatever is written below their folders is checked."""


@contextmanager
def locked(folder: Path, wait: float = 0) -> Iterator[Lock]:
    """Have `folder` for oneself.

    Parameters
    ----------
    wait : seconds to wait for another process to leave it.

    Raises
    ------
    Locked : when another process has it.
    """
    lock = Lock(folder)
    try:
        lock.acquire(wait)
        yield lock
    finally:
        lock.release()


def holder(folder: Path) -> Holder | None:
    """Whose the lock of a folder is; None where it is free, or stale by the clock of this
    machine."""
    held = _read(Path(os.path.abspath(folder)) / NAME)
    return None if held is None or _is_stale(held[0], time.time() - held[1]) else held[0]


def check_above(path: Path) -> None:
    """Raise `LockLost` where `path` lies in a folder whose lock this process has lost."""
    place = Path(os.path.abspath(path))
    for lock in tuple(_held):
        if place.is_relative_to(lock.path.parent):
            lock.check()


def _taken(path: Path, own: Path, lock: Lock, take_over: bool) -> Holder | None:
    """Make `own`, a file with our content, the lock `path`; returns who else has it.

    Several may find the same stale lock; who takes it over holds a second lock meanwhile, so that
    none takes what another has just taken.
    """
    while not _created(path, own):
        held = _read(path)
        if held is None:
            continue  # released between the two looks
        holder, touched = held
        if not (take_over and _is_stale(holder, own.stat().st_mtime - touched)):
            return holder
        guard = path.with_name(f"{path.name}.taken-over")
        if _taken(guard, own, lock, take_over) is not None:
            return holder
        try:
            again = _read(path)
            if again is not None and again[0] == holder:
                os.replace(own, path)
                lock.left_behind = holder
                return None
        finally:
            guard.unlink(missing_ok=True)
    return None


def _created(path: Path, own: Path) -> bool:
    """Create `path` with the content of `own`, exclusively: by a link, which makes name and content
    appear at once on local and on network file systems; by O_EXCL where there are no links."""
    try:
        os.link(own, path)
        return True
    except FileExistsError:
        return own.stat().st_nlink > 1  # over a network the answer to a success may be lost
    except FileNotFoundError:
        raise
    except OSError:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(own.read_text(encoding="utf-8"))
            return True
        except FileExistsError:
            return False


def _read(path: Path) -> tuple[Holder, float] | None:
    """Who holds a lock, and when it was touched; None where there is none."""
    try:
        touched = path.stat().st_mtime
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # the latter from network file systems
            return None
        raise UserError(f"{path} is in the way ({error.strerror}); remove it.") from error
    try:
        holder = Holder(**json.loads(text))
        if not isinstance(holder.pid, int) or holder.pid < 1:
            raise ValueError
    except (ValueError, TypeError):  # being written, damaged, or of another program
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(touched))
        return Holder("", "", 0, None, text, since), touched
    return holder, touched


def _is_stale(holder: Holder, untouched: float) -> bool:
    own = _this_system()
    if own and (holder.host, holder.system) == (platform.node(), own):
        return not _lives(holder)
    return untouched > STALE_AFTER


def _this_process() -> Holder:
    return Holder(
        host=platform.node(),
        system=_this_system(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        token=secrets.token_hex(8),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _this_system() -> str:
    """The boot of this machine and the space of its process numbers. Empty where processes cannot
    be looked for: there only time tells."""
    if os.name != "posix":
        return ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return platform.system()


def _lives(holder: Holder) -> bool:
    """Whether the process of a lock of this machine is still there."""
    try:
        os.kill(holder.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    start = _start_of(holder.pid)
    return start is None or holder.started is None or start == holder.started


def _start_of(pid: int) -> str | None:
    """When a process was started; "ended" for one that waits for its parent to notice; None where
    the system does not say."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]  # proc(5): starttime is field 22
    except OSError:
        pass
    try:
        told = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
