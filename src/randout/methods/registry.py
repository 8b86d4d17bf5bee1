"""The registry of methods.

A package provides a method through an entry point in the group `randout.methods`, named like the method:

    [project.entry-points."randout.methods"]
    my-penalty = "my_package:MyPenalty"

Names are thus known from package metadata, and a package is imported only when its method is used or listed. `register`
adds a class directly. Order: built-in methods first, then all others by name, independent of the order of registration.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from randout.core.config import Config
from randout.core.console import Show
from randout.core.errors import UserError

from .base import Method

__all__ = ["GROUP", "AnyMethod", "Origin", "Registry", "cause"]

GROUP = "randout.methods"  # of entry points
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RESERVED = ("all", "plain")  # words with another meaning in lists of methods
KINDS = ("gold", "noise", "distillation", "control")
AnyMethod = TypeVar("AnyMethod", bound=type[Method])


@dataclass(frozen=True)
class Origin:
    """Origin of a method that is not built in.

    package, version: of the installed package; empty for a method that a program registered. file: name of the file that
    defines the class. sha256: of that file, or of the class alone if the running script defines it; empty if the source is
    not available.
    """

    package: str = ""
    version: str = ""
    file: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        return f"package {self.package} {self.version}" if self.package else f"file {self.file or 'unknown'}"

    @property
    def identity(self) -> dict[str, str]:
        """The parts that the result of a training depends on; the file name is not one of them."""
        parts = {"package": self.package, "version": self.version, "sha256": self.sha256}
        return {key: value for key, value in parts.items() if value}

    def differs_from(self, was: Origin) -> str:
        """Describe how this origin differs from a recorded one."""
        if (self.package, self.version) == (was.package, was.version):
            return f"{self.file or 'its source'} has changed since"
        return f"now it comes from the {self}"

    @property
    def recorded(self) -> dict[str, str]:
        """As stored in the record of a run."""
        return self.identity | ({"file": self.file} if self.file else {})


@dataclass
class _Offer:
    """The entry points with one name, from which a method can be loaded."""

    points: list[metadata.EntryPoint] = field(default_factory=list)

    @property
    def described(self) -> str:
        return " and ".join(_described(point) for point in self.points)


class Registry(Mapping[str, type[Method]]):
    """Method classes by name. A package's method is imported on first access; listing names imports nothing.

    Accessing a method that cannot be loaded raises UserError naming its package and entry point.
    """

    def __init__(self, built_in: Iterable[type[Method]]) -> None:
        self._built_in = {method.name: method for method in built_in}
        self._added: dict[str, type[Method]] = {}
        self._origins: dict[str, Origin] = {}
        self._offers: dict[str, _Offer] | None = None
        self._failed: dict[str, UserError] = {}

    @property
    def built_in(self) -> tuple[str, ...]:
        """Names of the built-in methods."""
        return tuple(self._built_in)

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from sorted({*self._added, *self._offered()})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._added or name in self._offered()

    def __getitem__(self, name: str) -> type[Method]:
        found = self._built_in.get(name) or self._added.get(name)
        if found is not None:
            return found
        if name not in self._offered():
            raise KeyError(name)
        if name not in self._failed:
            try:
                return self._load(name)
            except UserError as error:
                self._failed[name] = error
        raise self._failed[name]

    def available(self) -> dict[str, type[Method]]:
        """Every method that can be loaded, by name. Each of the others gives one warning."""
        found = {}
        for name in self:
            told = name in self._failed
            try:
                found[name] = self[name]
            except UserError as error:
                if not told:
                    Show().warn(f"{error}. Other methods are not affected")
        return found

    def origin(self, name: str) -> Origin | None:
        """Origin of a method; None for a built-in one."""
        if name in self._built_in:
            return None
        self[name]
        return self._origins[name]

    @property
    def added(self) -> dict[str, type[Method]]:
        """Methods that `register` added, by name."""
        return dict(self._added)

    def origins(self, names: Iterable[str]) -> dict[str, Origin]:
        """Origins of the named methods that are registered and not built in."""
        return {name: origin for name in names if name in self and (origin := self.origin(name)) is not None}

    def add(self, method: Any, origin: Origin | None = None, where: str = "randout.register") -> type[Method]:
        """Add a class. The same class defined again, as by running a notebook cell twice, replaces the earlier one.

        origin: None for the file that defines it. where: who registers it, for error messages. Raises UserError for an
        unusable class and for a name that is already taken.
        """
        kind = self.check(method, where)
        name, before = kind.name, self._added.get(kind.name)
        if before is not None and not _same_definition(before, kind):
            raise UserError(
                f"{where}: the name {name!r} of {_class(kind)} is taken by {_class(before)} ({self._origins[name]}); "
                "rename one of them"
            )
        offer = self._offered().get(name) if origin is None else None
        if offer is not None and before is None and not any(_points_to(point, kind) for point in offer.points):
            raise UserError(
                f"{where}: the name {name!r} of {_class(kind)} is taken by {offer.described}; use another name"
            )
        if origin is None and before is kind:
            return kind
        self._added[name] = kind
        self._origins[name] = origin or _origin_of(kind)
        self._failed.pop(name, None)
        return kind

    def remove(self, name: str) -> None:
        """Remove a method that was added. A package's method is loaded again at its next use."""
        self._added.pop(name, None)
        self._origins.pop(name, None)

    def refresh(self) -> None:
        """Look for installed packages again."""
        self._offers = None
        self._failed = {}

    def _offered(self) -> dict[str, _Offer]:
        """Entry points of installed packages by name, without those named like a built-in method."""
        if self._offers is None:
            self._offers = {}
            for point in _entry_points():
                if point.name in self._built_in:
                    Show().warn(
                        f"{_described(point)} has the name of a built-in method and is ignored; its author must rename it"
                    )
                else:
                    self._offers.setdefault(point.name, _Offer()).points.append(point)
        return self._offers

    def _load(self, name: str) -> type[Method]:
        """Import the method of an entry point. Raises UserError if that fails."""
        offer = self._offered()[name]
        if len(offer.points) > 1:
            raise UserError(f"methods.{name}: two packages provide it: {offer.described}; uninstall one of them")
        (point,) = offer.points
        where = f"methods.{name}: {_described(point)}"
        try:
            found = point.load()
        except UserError as error:  # raised by `register` in the package
            raise UserError(f"{where} cannot be loaded: {error}") from None
        except (Exception, SystemExit) as error:
            self.remove(name)  # registered before the error
            raise UserError(f"{where} cannot be loaded: {cause(error)}") from error
        if getattr(found, "name", name) != name:
            raise UserError(f"{where}: the class has the name {found.name!r}; the entry point must have the same name")
        return self.add(found, self._of_package(point, found), where)

    @staticmethod
    def _of_package(point: metadata.EntryPoint, found: Any) -> Origin:
        own = _origin_of(found) if isinstance(found, type) else Origin()
        package, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "")
        return Origin(package, version, own.file, own.sha256)

    def check(self, method: Any, where: str) -> type[Method]:
        """Check the name and declarations of a class without adding it. where: for error messages. Raises UserError."""
        if isinstance(method, Method):
            kind = type(method).__name__
            raise UserError(f"{where}: found the instance {kind}(...), expected the class: {kind}")
        if not (isinstance(method, type) and issubclass(method, Method)) or method is Method:
            raise UserError(f"{where}: found {method!r:.80}, expected a class derived from randout.Method")
        for attribute, about in (("name", "its table in a recipe"), ("summary", "one line that describes it")):
            value = getattr(method, attribute, None)
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{where}: {_class(method)} has no `{attribute}` ({about}); found {value!r}")
        self._check_name(method.name, f"{where}: {_class(method)}.name")
        _check_declared(method, f"{where}: {_class(method)}")
        self._check_uses(method, f"{where}: {_class(method)}")
        return method

    def _check_name(self, name: str, where: str) -> None:
        """Raise UserError for an invalid, taken or reserved name."""
        if not NAME.fullmatch(name):
            raise UserError(f"{where}: found {name!r}; expected lower-case words joined by hyphens, such as 'my-noise'")
        if name in self._built_in:
            raise UserError(f"{where}: {name!r} is a built-in method; use another name")
        if name in self._variants(but=name):
            raise UserError(f"{where}: {name!r} is a variant of another method; use another name")
        if name in RESERVED or name in _settings():
            raise UserError(f"{where}: {name!r} is the name of a setting or reserved; use another name")

    def _check_uses(self, method: type[Method], where: str) -> None:
        """Raise UserError for variants, search spaces and `trained_with` methods that a study could not use."""
        for other in method.trained_with:
            if other not in self:
                raise UserError(f"{where}.trained_with: no method {other!r}; known methods: {', '.join(self)}")
        if unknown := [name for name in method.spaces if name not in method.variants]:
            raise UserError(f"{where}.spaces: {unknown[0]!r} is not one of its variants ({', '.join(method.variants)})")
        taken = {*self, *self._variants(but=method.name)} | {*RESERVED, *_settings()}
        for variant, settings in {"": {}, **method.variants}.items():
            if variant and (not NAME.fullmatch(variant) or variant in taken):
                raise UserError(
                    f"{where}.variants: {variant!r} is taken or not a valid name; use lower-case words and hyphens"
                )
            made = _made(method, dict(settings), f"{where}.variants.{variant}" if variant else where)
            for key, values in method.spaces.get(variant, method.space).items():
                for value in values:
                    _made(method, made.model_dump() | {key: value}, f"{where}.space.{key}")

    def _variants(self, but: str) -> set[str]:
        """Names of the variants of all methods loaded so far, except those of method `but`."""
        loaded = {**self._built_in, **self._added}
        return {variant for name, method in loaded.items() if name != but for variant in method.variants}


def _entry_points() -> list[metadata.EntryPoint]:
    """Entry points of the group, sorted by name and package."""
    found = metadata.entry_points(group=GROUP)
    return sorted(found, key=lambda point: (point.name, (point.dist and point.dist.name) or ""))


def _described(point: metadata.EntryPoint) -> str:
    """Describe an entry point and its package, for messages."""
    package = f"the package {point.dist.name} {point.dist.version}" if point.dist else "a package"
    return f"the entry point {point.name!r} of {package} ({point.value})"


def _points_to(point: metadata.EntryPoint, kind: type) -> bool:
    return (point.module, point.attr) == (kind.__module__, kind.__qualname__)


def _same_definition(one: type, other: type) -> bool:
    """Whether two classes have the same module and qualified name: one class, or a later run of its definition."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _origin_of(kind: type) -> Origin:
    """File that defines a class, with the digest of its current source."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    alone = kind.__module__ == "__main__" or file is None  # the rest of a script may change without changing the method
    try:
        source = inspect.getsource(kind).encode() if alone else Path(str(file)).read_bytes()
    except (OSError, TypeError):
        source = b""
    return Origin(file=Path(file).name if file else "", sha256=hashlib.sha256(source).hexdigest() if source else "")


def cause(error: BaseException, path: Path | None = None) -> str:
    """Describe an error in one line, with the last line number of `path` in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path is not None and frame.filename == str(path.resolve())]
    at = f"line {lines[-1]}: " if lines else ""
    return f"{at}{type(error).__name__}: {error}"


def _settings() -> set[str]:
    """Names that `--set` accepts without their table, and the names of the tables."""
    tables = [field.annotation for field in Config.model_fields.values()]
    return {*Config.model_fields, *(name for table in tables for name in getattr(table, "model_fields", {}))}


def _check_declared(method: type[Method], where: str) -> None:
    """Raise UserError for a class attribute with an invalid value."""
    if method.kind not in KINDS:
        raise UserError(f"{where}.kind: found {method.kind!r}; expected one of {', '.join(KINDS)}")
    if method.teacher not in ("", "logits", "model"):
        raise UserError(f"{where}.teacher: found {method.teacher!r}; expected '', 'logits' or 'model'")
    if not re.fullmatch(r"\d+(\.\d+)?x", str(method.cost)):
        raise UserError(f"{where}.cost: found {method.cost!r}; expected student steps, such as '2x'")
    if not 0 <= method.heldout < 1:
        raise UserError(f"{where}.heldout: found {method.heldout!r}; expected a share of the rows from 0 to below 1")
    for attribute in ("losses", "trained_with"):
        value = getattr(method, attribute)
        if isinstance(value, str) or not all(isinstance(one, str) for one in value):
            raise UserError(
                f"{where}.{attribute}: found {value!r}; expected a tuple of names, such as ('{method.name}',)"
            )


def _made(method: type[Method], settings: dict[str, Any], where: str) -> Method:
    """Make the method with these settings. Raises UserError."""
    try:
        return method(**settings)
    except UserError as error:
        lacking = [name for name, one in method.model_fields.items() if one.is_required() and name not in settings]
        if lacking:
            raise UserError(f"{where}: the setting {lacking[0]!r} has no default; every setting needs one") from None
        raise UserError(f"{where}: {error}") from None
