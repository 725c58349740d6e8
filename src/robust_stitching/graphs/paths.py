"""The paths of modules as a network's code has them, where one module may have several.

A module that is called again under another of its names is known by that: ``self.relu2(x)`` is
"relu2" although ``relu2 is relu1``. It also answers to its first name with the number of the call,
"relu1_1", as one does that has no other; and a name that is never called to the first call.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from keyword import iskeyword
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


class Path(str):
    """The path of a module that code is made of, where some parts may be words of Python."""

    def split(self, *how: Any) -> list[str]:
        return [Part(part) for part in super().split(*how)]

    def __radd__(self, before: str) -> "Path":
        return Path(str(before) + str(self))


class Part(str):
    """A name that is no identifier where Python has it for itself."""

    def isidentifier(self) -> bool:
        return super().isidentifier() and not iskeyword(self)


class Paths:
    """Where a trace is in a network."""

    def __init__(self, network: nn.Module):
        self._of: dict[nn.Module, list[str]] = defaultdict(list)
        for path, module in network.named_modules(remove_duplicate=False):
            self._of[module].append(path)
        self._all = {path for paths in self._of.values() for path in paths}
        self._calls: Counter[tuple[nn.Module, str]] = Counter()
        self._answered: dict[nn.Module, list[str]] = defaultdict(list)
        self._fetched: dict[nn.Module, list[str]] = defaultdict(list)
        self._around = [""]

    @property
    def modules(self) -> Collection[nn.Module]:
        """All that are part of the network."""
        return self._of.keys()

    def __contains__(self, path: str) -> bool:
        return path in self._all

    @property
    def around(self) -> str:
        """The path of the module that is run."""
        return self._around[-1]

    def fetch(self, name: str, value: Any) -> None:
        """Note that ``self.name`` was read."""
        if isinstance(value, nn.Module):
            self._fetched[value].append(name)

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[str]:
        """Within the block a module is run; gives the path under which it was called."""
        path = self._as_called(module)
        self._around.append(path)
        try:
            yield path
        finally:
            self._around.pop()

    def _as_called(self, module: nn.Module) -> str:
        paths = self._of[module] or [""]
        if len(paths) == 1:
            return paths[0]
        before = f"{self.around}." if self.around else ""
        here = [path for path in paths if path.startswith(before)] or paths[:1]
        number = self._calls[module, before]
        self._calls[module, before] += 1
        fetched = self._fetched.pop(module, [])
        if len(set(fetched)) == 1 and before + fetched[0] in here:
            return before + fetched[0]
        path = here[min(number, len(here) - 1)]  # of ``relu2(conv(relu1(x)))`` relu2 is read first
        self._fetched[module] = [name for name in fetched if before + name != path]
        return path

    def answer(self, module: nn.Module, name: str) -> None:
        """Note the name of a call of a module."""
        self._answered[module].append(name)

    def with_all_names(self, named: dict[str, T]) -> dict[str, T]:
        """All that is named, in its order, under further names of shared modules, too."""
        also: dict[str, list[str]] = defaultdict(list)
        for module, names in self._answered.items():
            first, *others = self._of[module] or [""]
            if others:
                for number, name in enumerate(names):
                    also[name].append(f"{first}_{number}" if number else first)
                also[names[0]] += others
        taken = set(named)
        every: dict[str, T] = {}
        for name, held in named.items():
            every[name] = held
            further = [path for path in also[name] if path not in taken]
            every |= dict.fromkeys(further, held)
            taken.update(further)
        return every
