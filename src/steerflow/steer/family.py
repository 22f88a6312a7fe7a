"""A family of swappable values, such as the solvers: its members by name, and their form as text.

A member is a frozen dataclass that can be called. As text, in files and on the command line, it is written like a call:
``euler``, ``window(start=0.2, stop=0.8)``.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from steerflow.errors import SteerflowError, unknown

Member = TypeVar("Member")


class Family(Mapping[str, type[Member]], Generic[Member]):
    """Members of one kind by name: ``SOLVERS["heun"]`` is a class, ``SOLVERS.parse("heun")`` a value."""

    def __init__(self, kind: str, members: Mapping[str, type[Member]]) -> None:
        self.kind = kind
        self._members = dict(members)

    def __getitem__(self, name: str) -> type[Member]:
        if name not in self._members:
            raise unknown(self.kind, name, self._members)
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def register(self, name: str, member: type[Member]) -> None:
        """Add a member of your own: one line makes it known to recipes, and so to sweeps and comparisons of the same process."""
        if not (dataclasses.is_dataclass(member) and callable(member)):
            raise SteerflowError(f"A {self.kind} must be a frozen dataclass with a __call__ method; {member!r} is not.")
        self._members[name] = member

    def name_of(self, member: Member) -> str:
        for name, kind in self._members.items():
            if type(member) is kind:
                return name
        raise unknown(
            self.kind, type(member).__name__, self._members, f"Register it: register({type(member).__name__!r}, ...)."
        )

    def parse(self, text: str | Member) -> Member:
        """The value written as ``name`` or ``name(field=value, ...)``; a value is returned as it is."""
        if not isinstance(text, str):
            return text
        name, _, arguments = text.strip().partition("(")
        name = name.strip()
        member = self[name]
        fields = {field.name: field for field in dataclasses.fields(member)}  # type: ignore[arg-type]
        form = f"Write {name}({', '.join(fields)})." if fields else f"Write {name}: it has no settings."
        values: dict[str, Any] = {}
        if arguments:
            try:
                call = ast.parse(text.strip(), mode="eval").body
                assert isinstance(call, ast.Call)
                values = dict(zip(fields, (ast.literal_eval(value) for value in call.args), strict=False))
                values |= {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            except (SyntaxError, ValueError, AssertionError) as error:
                raise SteerflowError(f"Could not read the {self.kind} {text!r}. {form}") from error
            if len(call.args) > len(fields):
                raise SteerflowError(f"The {self.kind} {name} has {len(fields)} settings, not {len(call.args)}. {form}")
        for field in values:
            if field not in fields:
                raise unknown(f"setting of the {self.kind} {name}", field, fields)
        missing = [
            field.name
            for field in fields.values()
            if field.name not in values and field.default is field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise SteerflowError(f"The {self.kind} {name} needs {', '.join(missing)}. {form}")
        try:
            return member(**{field: _of_type(fields[field].type, value) for field, value in values.items()})
        except SteerflowError:
            raise
        except (TypeError, ValueError) as error:
            raise SteerflowError(f"The {self.kind} {text!r} cannot be: {error}. {form}") from error

    def write(self, member: Member) -> str:
        """The text that ``parse`` reads."""
        fields: list[Any] = list(dataclasses.fields(member))  # type: ignore[arg-type]
        settings = [f"{field.name}={getattr(member, field.name)!r}" for field in fields]
        name = self.name_of(member)
        return f"{name}({', '.join(settings)})" if settings else name


def _of_type(kind: Any, value: Any) -> Any:
    """The value of a field that is annotated as ``kind``: whole numbers serve as floats; other mistakes of type are refused."""
    plain, _, optional = (kind.__name__ if isinstance(kind, type) else str(kind)).partition(" | ")
    if value is None and optional == "None":
        return None
    if plain == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    wanted = {"float": "a number", "int": "a whole number", "bool": "True or False"}
    if plain in wanted and type(value).__name__ != plain:
        raise TypeError(f"{value!r} is not {wanted[plain]}")
    return value


def asks_of(member: Any) -> tuple[str, ...]:
    """What a member needs beside the policy, as its ``asks`` says: "critic", kinds of parts; without it, a critic."""
    return getattr(member, "asks", ("critic",))
