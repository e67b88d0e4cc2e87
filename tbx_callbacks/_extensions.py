"""Defines `Registry`, which finds classes by name: bundled ones, those of entry points, and dotted paths.

To import an object from outside runs its code, which may do anything: only `without_imports` prevents that. What
the code raises ends in an `ExtensionError`, except for KeyboardInterrupt. `suggest` ends the error message about an
unknown name.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import logging
import pkgutil
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

from tbx_callbacks._text import reason, short, words

logger = logging.getLogger(__name__)

T = TypeVar("T")
OUTSIDE_ERRORS = (Exception, SystemExit)
"""Errors of code from outside that must not affect the training. An interrupt by the user is none of them."""


class ExtensionError(ValueError):
    """An object from outside the package that cannot be used. The message gives the reason."""


_skipped: ContextVar[list[str] | None] = ContextVar("skipped", default=None)


@contextmanager
def without_imports() -> Iterator[list[str]]:
    """Forbids imports of code from outside, as long as it is open; yields the names that were not looked at."""
    names: list[str] = []
    token = _skipped.set(names)
    try:
        yield names
    finally:
        _skipped.reset(token)


def is_skipped(name: str) -> bool:
    """Whether code from outside must not be imported now; if so, its name is noted."""
    names = _skipped.get()
    if names is None:
        return False
    names.append(name)
    return True


_in_working_folder: ContextVar[bool] = ContextVar("in_working_folder", default=False)


@contextmanager
def working_folder() -> Iterator[None]:
    """Lets dotted paths name modules of the working folder, as long as it is open; other imports never see the folder.

    Installed modules are found first, so that no file of the folder takes the place of a library.
    """
    token = _in_working_folder.set(True)
    try:
        yield
    finally:
        _in_working_folder.reset(token)


@contextmanager
def _import_path() -> Iterator[None]:
    """Adds the working folder at the end of the import path, if dotted paths may name modules there."""
    if not _in_working_folder.get() or "" in sys.path:
        yield
        return
    sys.path.append("")
    try:
        yield
    finally:
        if "" in sys.path:  # the code may have changed the path
            sys.path.remove("")


@contextmanager
def outside_code(what: str, error_type: type[ValueError] | None = None) -> Iterator[None]:
    """Turns whatever code from outside raises into an error that starts with `what`, SystemExit included.

    Errors of this package's checks pass; so does KeyboardInterrupt.

    Raises:
        ExtensionError: the code raised; or `error_type`, if it is given.
    """
    try:
        yield
    except (ExtensionError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise (error_type or ExtensionError)(f"{what}{_reason(error)}") from error


class Registry(Generic[T]):
    """Finds classes of one kind by name.

    A name is looked up among the bundled classes, then among the entry points of the group `tbx_callbacks.<kind>s`. A
    name with a dot that neither has is the dotted path of a class. Entry points are listed when a name is not bundled,
    and imported when they are used.

    Args:
        kind: `metric`, `rule` or `writer`.
        bundled: the package's own classes. They cannot be replaced by entry points.
        check: returns a valid class; raises ExtensionError with the rule, the value and the remedy. It receives the
            name that an entry point gives to the class, or None for a dotted path.
    """

    def __init__(self, kind: str, bundled: Mapping[str, T], check: Callable[[object, str | None], T]) -> None:
        self.kind, self.bundled, self._check = kind, bundled, check
        self.group = f"tbx_callbacks.{kind}s"
        self._warned: set[tuple[str, str]] = set()

    def find(self, name: str) -> T | None:
        """Returns the class of this name; None if the name is unknown and has no dot.

        Raises:
            ExtensionError: the class cannot be imported, or is not valid.
        """
        if name in self.bundled:
            return self.bundled[name]
        entry_point = self._entry_points().get(name)
        if entry_point is not None:
            return self._load(entry_point)
        return self._checked(import_object(name), None) if "." in name else None

    def skips(self, name: object) -> bool:
        """Whether the name is that of code from outside, which must not be imported now."""
        if not isinstance(name, str) or name in self.bundled:
            return False
        return ("." in name or name in self._entry_points()) and is_skipped(name)

    def names(self) -> list[str]:
        """The names of all bundled classes and entry points. Imports nothing."""
        return [*self.bundled, *self._entry_points()]

    def all(self) -> dict[str, T]:
        """All bundled classes and those of entry points, by name. An invalid entry point costs one warning."""
        classes = dict(self.bundled)
        for name, entry_point in self._entry_points().items():
            if is_skipped(name):
                continue
            try:
                classes[name] = self._load(entry_point)
            except ExtensionError as error:
                self.skip(name, str(error))
        return classes

    def skip(self, name: str, reason: str) -> None:
        """Warns once that the entry point of this name is not used."""
        if (name, reason) not in self._warned:
            self._warned.add((name, reason))
            logger.warning("%s entry point %s is ignored: %s; fix or uninstall its package", self.kind, name, reason)

    def _entry_points(self) -> dict[str, EntryPoint]:
        try:
            listed = entry_points(group=self.group)
        except Exception as error:  # a package with damaged metadata
            self.skip(self.group, reason(error))
            return {}
        by_name: dict[str, EntryPoint] = {}
        for entry_point in listed:
            first = by_name.setdefault(entry_point.name, entry_point)
            if entry_point.name in self.bundled:
                self.skip(entry_point.name, f"{entry_point.value} must not replace the bundled {self.kind}")
            elif first.value != entry_point.value:
                self.skip(entry_point.name, f"{entry_point.value} has the same name as {first.value}")
        return {name: entry_point for name, entry_point in by_name.items() if name not in self.bundled}

    def _load(self, entry_point: EntryPoint) -> T:
        if is_skipped(entry_point.name):
            raise ExtensionError("it is code, which must not be imported now")
        with outside_code(f"its entry point {entry_point.value} cannot be imported: "):
            loaded = entry_point.load()
        return self._checked(loaded, entry_point.name)

    def _checked(self, loaded: object, name: str | None) -> T:
        with outside_code("it cannot be checked: "):
            return self._check(loaded, name)


def suggest(name: str, known: Iterable[str], *, what: str = "names", most: int = 12) -> str:
    """Returns `did you mean 'x'?` and the known names, for the end of an error message.

    `most` names are shown; twelve at most beside the one that was meant.
    """
    names, name = list(known), name[:200]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    most = min(most, 12) if near else most
    shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"known {what}: {shown}"


def import_object(path: str) -> Any:
    """Imports the object of a dotted path.

    Raises:
        ExtensionError: it cannot be imported. The message gives the reason and the nearest names.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ExtensionError("it names no module")
    if is_skipped(path):
        raise ExtensionError("it is code, which must not be imported now")
    with _import_path():
        try:
            module = importlib.import_module(module_name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            is_missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
            remedy = "; run in its folder, or put that folder on PYTHONPATH" if is_missing else ""
            raise ExtensionError(f"{_reason(error)}{_near_modules(module_name)}{remedy}") from error
        with outside_code(f"module {module_name} cannot be searched: "):  # a module may define __getattr__
            if hasattr(module, name):
                return getattr(module, name)
            known = suggest(name, _names_in(module), what=f"names in {module_name}")
        raise ExtensionError(f"module {module_name} has no {name}; {known}")


def check_frozen_dataclass(loaded: object, base: type | None = None, reserved: Collection[str] = ()) -> type[Any]:
    """Returns a frozen dataclass that can be called, and whose fields are options that YAML can give.

    Args:
        loaded: an object from outside the package.
        base: the interface that it implements; messages name it.
        reserved: names that options must not have.

    Raises:
        ExtensionError: it is anything else.
    """
    if not isinstance(loaded, type):
        raise ExtensionError(f"it must be a class, got {_short(loaded)}; name the class itself")
    if not dataclasses.is_dataclass(loaded) or not loaded.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ExtensionError(f"it must be a frozen dataclass, got {_short(loaded)}; add @dataclass(frozen=True)")
    for option in dataclasses.fields(loaded):
        if option.default is option.default_factory is dataclasses.MISSING:
            raise ExtensionError(f"every option must have a default, but {option.name} has none; add one")
        if option.name.startswith("_") or option.name in reserved or hasattr(BaseModel, option.name):
            raise ExtensionError(f"no option must be named {option.name}, which has another meaning; rename it")
    if not any("__call__" in vars(cls) for cls in loaded.__mro__ if cls is not base):
        remedy = f"define __call__ as in {base.__name__}" if base else "define __call__"
        raise ExtensionError(f"it must be callable, got {_short(loaded)}; {remedy}")
    try:
        TypeAdapter(loaded).json_schema()
    except Exception as error:  # also the NameError of an annotation
        text = words(error).partition("\n")[0]
        raise ExtensionError(f"every option must have a type that YAML can give: {text}") from error
    return loaded


def _reason(error: BaseException) -> str:
    """The error, and the line of the imported module where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if frame.filename != __file__]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return (words(error) if isinstance(error, ImportError) else reason(error)) + place


def _short(value: object) -> str:
    return f"class {value.__qualname__}" if isinstance(value, type) else f"{type(value).__name__} {short(value)}"[:60]


def _names_in(module: ModuleType) -> list[str]:
    """The module's public names, without those that it imports from elsewhere."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = [name for name, value in public.items() if getattr(value, "__module__", None) == module.__name__]
    return own or list(public)


def _near_modules(missing: str) -> str:
    """Names the modules beside one that cannot be imported, for the end of a message."""
    parent_name, _, name = missing.rpartition(".")
    try:
        parent: Any = importlib.import_module(parent_name) if parent_name else None
    except KeyboardInterrupt:
        raise
    except BaseException:
        return ""
    siblings = [module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", ()))]
    if name in siblings or not siblings:
        return ""
    return f"; {suggest(name, siblings, what=f'modules in {parent_name}')}"
