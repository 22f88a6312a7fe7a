"""What all commands share: finding a command by name, reading its options, and ending well."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import select
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import FrameType, NoneType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_args

from steerflow.errors import BusyError, SteerflowError

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry

Config = TypeVar("Config")

# Exit codes, as shells and `make` expect them.
INPUT, BUSY, INTERRUPTED, TERMINATED, CLOSED = 2, 75, 128 + signal.SIGINT, 128 + signal.SIGTERM, 141
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Command:
    """A command by the place of its function, ``module:function(arguments)``, which is imported when it is called."""

    place: str
    about: str

    def load(self) -> Callable[[list[str]], None]:
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(module), name)


class Terminated(KeyboardInterrupt):
    """SIGTERM came; like Ctrl-C, it passes through ``except Exception``."""


@dataclass
class _Kept:
    """What stays on disk when the command in progress is stopped."""

    message: str = field(default="")


_kept = _Kept()


class _Understood(BaseException):
    """Ends a command that is only read, with the config it would work with."""


_only_read: ContextVar[bool] = ContextVar("only_read", default=False)


def keeping(message: str) -> None:
    """Say what is kept if the command is stopped from here on; shown with the line on how to continue."""
    _kept.message = message


def dispatch(
    prog: str, commands: Mapping[str, Command], arguments: list[str], about: str, options: tuple[str, ...] = ()
) -> None:
    """Call the command that the first argument names with the others; ``--help`` and no arguments list the commands.

    ``options`` are those that the caller handles itself. Raises SystemExit with code 2 and the nearest names for an
    unknown command.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(prog, commands, about))
        return
    name, rest = arguments[0], arguments[1:]
    if name not in commands:
        what, known = ("option", ["--help", *options]) if name.startswith("-") else ("command", [*commands])
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = "Did you mean " + " or ".join(f"`{prog} {n}`" for n in near) if near else "Known: " + ", ".join(known)
        refuse(f"`{prog}` has no {what} {name!r}. {hint}{'?' if near else '.'}")
    commands[name].load()(rest)


def parse(config: type[Config], arguments: list[str], *, prog: str, default: Config | None = None) -> Config:
    """The config that the arguments describe; its fields are the options, their comments the help.

    Raises SystemExit: with 0 after ``--help``, with 2 and the nearest options for arguments that do not fit.
    """
    import tyro

    given: dict[str, Any] = {} if default is None else {"default": default}
    parsed = tyro.cli(
        config, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,), registry=_plain_help(), **given
    )
    if _only_read.get():
        raise _Understood(parsed)
    return parsed


def _plain_help() -> ConstructorRegistry:
    """A rule of tyro's for help without noise: "--steps INT", not "--steps {None}|INT ... (default: None)".

    What holds where an option is not set, and what a flag does, their texts say.
    """
    from tyro import conf, constructors

    registry = constructors.ConstructorRegistry()
    nested: list[type] = []

    def plain(option: constructors.StructFieldSpec) -> constructors.StructFieldSpec:
        annotated = get_args(option.type)
        unset = option.default in (None, (), "", constructors.MISSING_NONPROP)
        if not (unset or isinstance(option.default, bool)) or conf.UseAppendAction in annotated:
            return option
        optional = annotated[1:] == (NoneType,) and isinstance(annotated[0], type)
        hint = conf.arg(help_behavior_hint="", metavar=annotated[0].__name__.upper() if optional else None)
        return replace(option, type=Annotated[option.type, hint])

    @registry.struct_rule
    def rule(info: constructors.StructTypeInfo) -> constructors.StructConstructorSpec | None:
        if info.type in nested:
            return None
        nested.append(info.type)
        try:
            spec = constructors.ConstructorRegistry.get_struct_spec(info)
        finally:
            nested.pop()
        if not isinstance(spec, constructors.StructConstructorSpec):
            return None
        return replace(spec, fields=tuple(map(plain, spec.fields)))

    return registry


def read(command: Callable[[list[str]], None], arguments: list[str]) -> Any:
    """The config that ``command(arguments)`` would work with; nothing is done.

    Raises SystemExit as ``parse`` does: with 2 for arguments that do not fit, with 0 where there is nothing to do but help.
    """
    token = _only_read.set(True)
    try:
        command(arguments)
    except _Understood as understood:
        return understood.args[0]
    finally:
        _only_read.reset(token)
    raise SystemExit(0)


def refuse(message: str) -> NoReturn:
    """End with a message on stderr and the exit code of unusable input."""
    print(f"steerflow: {message}", file=sys.stderr)
    raise SystemExit(INPUT)


def run(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Call ``command`` and return the exit code; errors that a user can mend become messages.

    0: done; 2: unusable input or machine; 75: another process is at it, try again later; 130: Ctrl-C; 143: SIGTERM; 141:
    nobody reads the output any more. With ``--debug`` among the arguments, or STEERFLOW_DEBUG=1, the traceback is shown
    as well.
    """
    debug = "--debug" in arguments or os.environ.get("STEERFLOW_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    keeping("")
    try:
        command(arguments)
        sys.stdout.flush()
        return 0
    except SteerflowError as error:
        return _failed(str(error), debug, BUSY if isinstance(error, BusyError) else INPUT)
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        if debug:
            traceback.print_exc()
        how = "SIGTERM" if terminated else "Ctrl-C"
        again = shlex.join([*_program(), *arguments])
        kept = f" {_kept.message} The same command continues: {again}" if _kept.message else ""
        print(f"\nsteerflow: stopped by {how}.{kept}", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # The interpreter flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        place = f" while writing {error.filename}" if error.filename else ""
        kept = f" {_kept.message}" if _kept.message else ""
        return _failed(f"The disk is full{place}.{kept} Free some space, then run the same command again.", debug)


def _program() -> list[str]:
    """What to type for this program, as it was called."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return [sys.executable, "-m", "steerflow"]
    return ["steerflow" if shutil.which("steerflow") else sys.argv[0]]


def _failed(message: str, debug: bool, code: int = INPUT) -> int:
    if debug:
        traceback.print_exc()
    print(f"steerflow: {message}", file=sys.stderr)
    return code


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # Once is a request to end well; a second one ends at once.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader is gone; a pipe between processes that breaks is another matter."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _overview(prog: str, commands: Mapping[str, Command], about: str) -> str:
    width = max(map(len, commands)) + 2
    lines = [f"  {name:<{width}}{command.about}" for name, command in commands.items()]
    return "\n".join(
        [f"usage: {prog} COMMAND ...", "", about, "", *lines, "", f"Options of one: {prog} COMMAND --help"]
    )
