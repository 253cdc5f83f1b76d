"""Options from a TOML file: one table for each command, keys named as its options; `stemfit config --show`."""

from __future__ import annotations

import inspect
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from stemfit.commands import exits
from stemfit.errors import InputError, UsageError

EXAMPLES = """
Examples:

\b
  stemfit config --show > settings.toml
  stemfit analyze image.tif --config settings.toml

A line without a value keeps its default; options on the command line win over the file. Paths are relative to where
the command runs, as on the command line.
"""

KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", list: "a list"}


EXCLUSIVE = {
    "overlay": (({"crop"}, {"defect"}),),
    "export": (({"candidate"}, {"what"}),),
    "match": (({"relaxer=teacher"}, {"checkpoint"}),),
    "relax": (({"relaxer=teacher"}, {"checkpoint", "refine"}), ({"relaxer=keep"}, {"checkpoint"})),
    "simulate": (
        ({"like"}, {
            "voltage", "convergence", "detector", "source-fwhm", "defocus", "astigmatism", "coma", "threefold", "c3",
            "focal-spread", "pixel-size", "shape", "dose", "centre", "thermal", "seed", "simulator",
        }),
    ),
}  # fmt: skip
"""Options of each command that do not go together, or do not with one value: one that is typed displaces the file's."""


@dataclass(frozen=True)
class Setting:
    """One option: its name in the file, how it is typed and how the opposite, what it takes and is without one."""

    name: str
    flag: str
    opposite: str
    kind: type
    choices: tuple[str, ...]
    default: Any
    metavar: str
    help: str


def settings_of(command: Callable[..., Any]) -> dict[str, Setting]:
    """Options of a command by the names that they have in the file; its arguments are none."""
    hints = get_type_hints(command, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(command).parameters.items():
        hint, option = get_args(hints[name])[:2]
        if isinstance(option, typer.models.OptionInfo) and name != "config":
            words = (option.default, *(option.param_decls or ()))  # in Annotated the first name is taken as a default
            flags = [word for word in words if isinstance(word, str) and word.startswith("--")]
            flag, _, opposite = (flags[0] if flags else f"--{name.replace('_', '-')}").partition("/")
            kind, choices = _kind(hint)
            default = parameter.default if parameter.default is not inspect.Parameter.empty else None
            found[flag[2:]] = Setting(
                flag[2:], flag, opposite, kind, choices, default, option.metavar or "",
                " ".join((option.help or "").split()),
            )  # fmt: skip
    return found


def _kind(hint: Any) -> tuple[type, tuple[str, ...]]:
    """Type in the file, and what may be chosen, of an annotation."""
    if get_origin(hint) is UnionType:
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return str, tuple(str(choice) for choice in get_args(hint))
    if get_origin(hint) is list:
        return list, ()
    return (hint, ()) if hint in (float, int, bool) else (str, ())


def configurable(commands: Mapping[str, Callable[..., Any]]) -> type[TyperCommand]:
    """Class of commands that read `--config FILE` first.

    Parameters
    ----------
    commands : mapping of str to function
        All that may have a table, by name.
    """

    class Configurable(TyperCommand):
        """What the file says comes before the command line, which wins."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            path = _asked(args)
            if path is not None:
                with exits.errors(path):
                    stated = read(path, commands).get(self.name or "", {})
                    known = settings_of(commands[self.name or ""])
                    stated = _undisplaced(EXCLUSIVE.get(self.name or "", ()), stated, args)
                    args = [*_arguments(known, stated, args), *args]
            return list(super().parse_args(ctx, args))

    return Configurable


def _asked(args: list[str]) -> Path | None:
    """File that the command line names."""
    for k, word in enumerate(args):
        if word == "--":
            return None
        if word == "--config" and k + 1 < len(args):
            return Path(args[k + 1])
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
    return None


def read(path: Path, commands: Mapping[str, Callable[..., Any]]) -> dict[str, dict[str, Any]]:
    """Read a file of settings and check all of it.

    Raises
    ------
    InputError
        It is missing or no TOML.
    UsageError
        A table or key is not known, or a value of the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", remedy="check the path of --config", subject=path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"is no TOML ({error})", remedy="see stemfit config --show", subject=path) from error
    for table, values in content.items():
        if not isinstance(values, dict):
            remedy = f"write it under the command that it is for, as in [{next(iter(commands))}]"
            raise UsageError(f"{table!r} stands in no table", remedy=remedy, subject=path)
        if table not in commands:
            raise UsageError(f"there is no command [{table}]", remedy=_nearest(table, commands), subject=path)
        known = settings_of(commands[table])
        for key, value in values.items():
            if key not in known:
                what = f"[{table}] has no option {key!r}"
                raise UsageError(what, remedy=_nearest(key.replace("_", "-"), known), subject=path)
            _check(path, table, known[key], value)
    return content


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def _check(path: Path, table: str, setting: Setting, value: Any) -> None:
    """Types as TOML has them: 5 is a number, "5" is text; texts of several numbers may be lists."""
    kind = setting.kind
    several = kind is str and not setting.choices and "," in setting.metavar and isinstance(value, list)
    fits = {
        float: isinstance(value, float | int) and not isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        bool: isinstance(value, bool),
        str: isinstance(value, str) or several,
        list: isinstance(value, list) and all(isinstance(item, str) for item in value),
    }[kind]
    if not fits:
        remedy = f"give {KINDS[kind]}" + (f", {setting.metavar}" if setting.metavar else "")
        raise UsageError(f"[{table}] {setting.name} = {value!r} is of the wrong type", remedy=remedy, subject=path)
    if setting.choices and value not in setting.choices:
        remedy = _nearest(value, dict.fromkeys(setting.choices))
        raise UsageError(f"[{table}] {setting.name} = {value!r} is not known", remedy=remedy, subject=path)


def _arguments(known: Mapping[str, Setting], stated: Mapping[str, Any], args: list[str]) -> list[str]:
    """The file's settings as words of a command line, without those that the command line itself has."""
    words: list[str] = []
    for name, value in stated.items():
        flag, opposite = known[name].flag, known[name].opposite
        if any(word in (flag, opposite) or word.startswith(f"{flag}=") for word in args):
            continue
        if isinstance(value, bool):
            words.append(flag if value else opposite)
        elif isinstance(value, list) and known[name].kind is list:
            words += [f"{flag}={item}" for item in value]
        else:
            words.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return words


def _undisplaced(
    groups: Iterable[tuple[set[str], set[str]]], stated: Mapping[str, Any], args: list[str]
) -> dict[str, Any]:
    """The file's settings without those that an option of the command line excludes."""
    typed = {_at(args, k) for k, word in enumerate(args) if word.startswith("--")}
    typed |= {word.partition("=")[0] for word in typed}
    gone = set()
    for one, other in groups:
        for here, there in ((one, other), (other, one)):
            if here & typed:
                gone |= {name for name in stated if name in there or f"{name}={stated[name]}" in there}
    return {name: value for name, value in stated.items() if name not in gone}


def _at(args: list[str], k: int) -> str:
    """Option at a place of the command line, as name=value."""
    word = args[k][2:]
    follows = args[k + 1] if k + 1 < len(args) else "--"
    return word if "=" in word or follows.startswith("--") else f"{word}={follows}"


def shown(commands: Mapping[str, Callable[..., Any]]) -> str:
    """All settings as a file: defaults as they are, what has none as a comment, with one line each."""
    lines = ["# Every option of stemfit; a line that begins with # has no default."]
    for table, command in commands.items():
        known = [s for s in settings_of(command).values() if s.name not in ("debug", "verbose", "json")]
        lines += ["", f"[{table}]"]
        width = max((len(_line(setting)) for setting in known), default=0)
        lines += [f"{_line(setting):<{min(width, 40)}}  # {_words(setting)}" for setting in known]
    return "\n".join(lines)


def _line(setting: Setting) -> str:
    value = setting.default
    if value is None:
        return f"# {setting.name} ="
    text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
    return f"{setting.name} = {text}"


def _words(setting: Setting) -> str:
    what = f"{' | '.join(setting.choices) or setting.metavar}"
    return textwrap.shorten(f"{what}: {setting.help}" if what else setting.help, 160, placeholder=" ...")


def command(commands: Mapping[str, Callable[..., Any]]) -> Callable[..., None]:
    """The command `stemfit config`."""

    def config(
        show: Annotated[bool, typer.Option("--show", help="Print the defaults as a file of settings.")] = False,
    ) -> None:
        """Settings in a TOML file, for --config."""
        if not show:
            with exits.errors("config"):
                raise UsageError("nothing was asked", remedy="give --show")
        typer.echo(shown(commands))

    return config
