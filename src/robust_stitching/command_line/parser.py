"""A parser whose options are settings of a plan: their defaults, kinds and limits stand there."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NoReturn

from robust_stitching.basics.code import function_in
from robust_stitching.basics.errors import UserError
from robust_stitching.command_line import values
from robust_stitching.command_line.calling import COMMANDS, as_called, called
from robust_stitching.plans import written
from robust_stitching.plans.settings import Kind, Settings, kind_of

UNSET = object()
WRITTEN = re.compile(r"`([\w.]+)`|(?<![\w.])([\w.]+)=('[^']*'|[\w.+-]*[\w+-])")
"""A setting in a sentence of the library: `` `name` ``, or name=value."""


class Parser(argparse.ArgumentParser):
    """A parser whose help shows defaults, whose errors are one sentence, and which remembers what
    was given: the namespace that it returns has the names of those arguments in `given`.

    Parameters
    ----------
    plan : the plan that its settings belong to; None for a command without one.
    """

    def __init__(self, description: str, plan: type[Settings] | None = None, **options: Any):
        super().__init__(
            prog=called(),
            description=description,
            formatter_class=_Help,
            allow_abbrev=False,
            **options,
        )
        self.of_plan = plan
        self.paths: dict[str, str] = {}  # names of arguments to settings
        self.weights: dict[str, str] = {}  # settings that code may stand for, to flags of weights
        self.by_plan = False  # whether --plan says the settings, and files are named beside it
        self._beside: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def setting(
        self,
        path: str,
        *flags: str,
        group: argparse._ActionsContainer | None = None,
        **options: Any,
    ) -> None:
        """An argument that is the setting at a path of the plan, which says its default, how it is
        read and which values it may have.

        Parameters
        ----------
        flags : as `add_argument` takes them; without any the setting's name is a flag.
        """
        kind, about = _at(self.of_plan, path)
        flags = flags or (f"--{path.rpartition('.')[2].replace('_', '-')}",)
        positional = not flags[0].startswith("-")
        if kind.type is bool:
            options["action"] = "store_true"
        elif kind.items is str:
            options |= {"nargs": "+", "action": Listed}
        else:
            if about.get("choices") and kind.type is str:
                options.setdefault("choices", about["choices"])
            options.setdefault("type", values.reader(kind, about.get("limits")))
        if not positional and kind.type is not bool:
            options.setdefault("default", written.default_of(self.of_plan, path))
        action = (group or self).add_argument(*flags, **options)
        self.paths[action.dest] = path

    def beside(self, *flags: str, **options: Any) -> None:
        """An argument that is no setting, and that may stand beside --plan."""
        self.add_argument(*flags, **options)
        self._beside.append((flags, options))

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse's, which knows nothing of what no path and no name can hold."""
        for arg in sys.argv[1:] if args is None else args:
            if "\0" in arg:
                raise UserError(f"{arg!r} has a NUL in it, which no file and no name has.")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        parsed = super().parse_args(args)
        # What the parser finds set it does not set to its default.
        left = argparse.Namespace(**dict.fromkeys(vars(parsed), UNSET))
        super().parse_args(args, left)
        parsed.given = {name for name, value in vars(left).items() if value is not UNSET}
        return parsed

    def settings(self, args: argparse.Namespace) -> dict[str, Any]:
        """The settings that arguments say: path to value."""
        return {path: getattr(args, name) for name, path in self.paths.items()}

    def parse_plan(self, argv: Sequence[str]) -> tuple[argparse.Namespace, Settings] | None:
        """The plan of ``--plan FILE``, with the files that are named anew beside it; None where no
        plan is named.

        Raises
        ------
        UserError : for settings beside the plan, and see `plans.read`.
        """
        if not any(arg == "--plan" or arg.startswith("--plan=") for arg in argv):
            return None
        again = Parser(self.description)
        again.add_argument("--plan", type=Path, required=True)
        files = self.files()
        for name, path in files.items():
            again.add_argument(f"--{name.replace('_', '-')}", dest=path)
        for path, flags in self.codes().items():
            again.add_argument(*flags, dest=path, metavar="MODEL")
        for flags, options in self._beside:
            again.add_argument(*flags, **options)
        args, left = again.parse_known_args(argv)
        if left:
            raise UserError(
                f"--plan holds every setting; leave {' '.join(left)} out. Beside it stand only "
                f"{', '.join(again.flags())}."
            )
        plan = written.read(args.plan, self.of_plan)
        self.by_plan = True
        anew = (*files.values(), *self.codes())
        moved = {path: getattr(args, path) for path in anew if getattr(args, path) is not None}
        for path, flags in self.codes().items():
            if path in moved and not function_in(moved[path]):
                raise UserError(f"--plan holds every setting; leave {flags[-1]} out.")
            named = written.value_at(plan, path)
            if path not in moved and named and function_in(named):
                raise UserError(
                    f"the plan has code of somebody's own, {named}, and no code is run because a "
                    f"file names it; name it yourself: {flags[-1]} {named}."
                )
        return args, written.with_values(plan, moved)

    def files(self) -> dict[str, str]:
        """What the plan calls its networks and data, to the setting that says where each lies."""
        return {
            path.rpartition(".")[0]: path
            for path, owner, own in written.leaves(self.of_plan)
            if hasattr(owner, "hash") and own.default is MISSING
        }

    def codes(self) -> dict[str, list[str]]:
        """The settings that may name code of the user's, to the flags that do."""
        flags = {self.paths.get(a.dest): a.option_strings for a in self._actions}
        return {path: flags[path] for path in flags if path and path.split(".")[-1] == "model"}

    def flags(self) -> list[str]:
        """The options that there are, by their long names."""
        return [
            a.option_strings[-1] for a in self._actions if a.option_strings and a.dest != "help"
        ]

    def spelled(self, text: str) -> str:
        """A sentence of the library in the words of this command: settings as its options."""
        actions = reversed(self._actions)  # a second option of a setting is short for the first
        options = {a.dest: a.option_strings[-1] for a in actions if a.option_strings}
        names: dict[str, str] = dict(options)
        for dest, path in self.paths.items():
            option = options.get(dest)
            if option is not None:
                names |= {path: option, path.rpartition(".")[2]: option}
            elif not self.by_plan:
                names[path] = dest.upper()
        if self.by_plan:
            names |= {path: f"--{name.replace('_', '-')}" for name, path in self.files().items()}

        def spell(match: re.Match) -> str:
            bare, name, value = match.groups()
            if bare in COMMANDS:
                return f"{bare}.py"
            option = names.get(bare or name)
            if option is None:
                return bare or match.group(0)
            shown = (value or "").strip("'")
            return f"{option} {shown}" if shown not in ("", "True") else option

        return WRITTEN.sub(spell, text)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options.")


def _at(plan: type[Settings], path: str) -> tuple[Kind, Mapping[str, Any]]:
    """What kind the setting at a path is of, and what is known of it."""
    for leaf, owner, own in written.leaves(plan):
        if leaf == path:
            return kind_of(owner, own.name), own.metadata
    raise ValueError(f"{plan.__name__} has no setting {path}")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every option that has one, the description as it is written, and commands as
    they are called here."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(as_called(text), width, indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(as_called(text), width)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == ():
            return action.help
        return super()._get_help_string(action)


class Listed(argparse.Action):
    """An option that takes names with spaces or commas between them."""

    def __call__(self, parser: Any, namespace: Any, words: Any, option: str | None = None) -> None:
        names = tuple(filter(None, (part.strip() for part in ",".join(words).split(","))))
        if not names:
            raise argparse.ArgumentError(self, "expected at least one argument")
        setattr(namespace, self.dest, names)
