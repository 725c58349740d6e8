"""What lies beside a file of code of the user's own, for that to import."""

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from robust_stitching.basics.own_lines import of_others


class Beside(MetaPathFinder):
    """The folder of a file. Its code may import what lies there, as a script called without
    arguments may, whenever it runs: in a function or a forward, too.

    What is imported from there is known to that code alone, so that another folder may have modules
    of the same names.

    Attributes
    ----------
    modules : what was imported from there so far, by name.
    builtins : those of Python for the code in the folder, with an `import` of its own.
    """

    def __init__(self, file: Path):
        self.file, self.folder = file, file.parent
        self.modules: dict[str, ModuleType] = {}
        self.builtins = vars(builtins) | {"__import__": self._import}

    def files(self) -> list[Path]:
        """Those that were imported, and those that the code has a statement for."""
        found = {Path(module.__file__) for module in self.modules.values()}
        waiting = [self.file, *found]
        while waiting:
            new = set(self._named_in(waiting.pop())) - found
            found |= new
            waiting += new
        return sorted(found - {self.file})

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Let the code that runs within the block import what lies there."""
        before, argv, folder = dict(sys.modules), sys.argv, str(self.folder)
        sys.modules.update(self.modules)
        sys.argv = [str(self.file)]
        sys.path.insert(0, folder)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.argv = argv
            sys.path.remove(folder)
            sys.meta_path.remove(self)
            for name, module in list(sys.modules.items()):
                known = before.get(name)
                if module is not known and self._is_here(getattr(module, "__file__", None)):
                    self.modules[name] = module
                    if known is None:
                        del sys.modules[name]
                    else:
                        sys.modules[name] = known

    def find_spec(
        self, name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of a file with code: it gets `builtins`."""
        for folder in [self.folder] if path is None else filter(self._is_here, path):
            loader = partial(_Loader, self), SOURCE_SUFFIXES
            spec = FileFinder(str(folder), loader).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None

    def _import(self, *args: Any, **kwargs: Any) -> ModuleType:
        with self.importable():
            return __import__(*args, **kwargs)

    def _is_here(self, file: str | None) -> bool:
        here = bool(file) and Path(file).is_relative_to(self.folder)
        return here and not of_others(file)

    def _named_in(self, file: Path) -> Iterator[Path]:
        """The files in the folder that the statements of a file import."""
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):  # that is told where it is run
            return
        for node in ast.walk(tree):
            level, names = 0, []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                level, base = node.level, [node.module] if node.module else []
                names = [".".join([*base, alias.name]) for alias in node.names]
            folder = file.parents[level - 1] if level else self.folder
            for name in names:
                parts = name.split(".")
                for count in range(1, len(parts) + 1):
                    place = folder.joinpath(*parts[:count])
                    for code in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
                        if code.is_file() and self._is_here(str(code)):
                            yield code


class _Loader(SourceFileLoader):
    def __init__(self, beside: Beside, *where: str):
        super().__init__(*where)
        self.beside = beside

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self.beside.builtins
        super().exec_module(module)
