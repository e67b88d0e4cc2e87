"""Runs a script in this process as Python would run it: as `__main__`, with its own arguments and import path."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any


class ScriptError(ValueError):
    """There is no script to run; the message names it, the rule and the remedy."""


@dataclass(frozen=True)
class Script:
    """A script with its arguments.

    Args:
        target: the path of a Python file, or of a folder or zip file with a `__main__.py`; or a module's name.
        arguments: its arguments.
        is_module: whether the target is a module, as after `python -m`.
    """

    target: str
    arguments: Sequence[str] = ()
    is_module: bool = False

    def check(self) -> None:
        """Raises if there is nothing to run; modules inside packages are looked up when they run.

        Raises:
            ScriptError: there is no such file, folder or module.
        """
        if self.is_module:
            _check_module(self.target)
        elif not os.path.exists(self.target):
            raise ScriptError(
                f"SCRIPT must be a Python file, got {self.target!r}, which does not exist; a module needs -m"
            )
        elif _is_archive(self.target) and PathFinder.find_spec("__main__", [os.path.abspath(self.target)]) is None:
            raise ScriptError(f"SCRIPT must be a Python file, got {self.target!r} without a __main__.py; name a file")

    def run(self) -> None:
        """Runs the script. Its exceptions pass, and are shown without frames of this package.

        `SystemExit` passes as well, so that Python ends with the script's exit code.
        """
        try:
            main, code = self._load()
            sys.modules["__main__"] = main
            exec(code, main.__dict__)
        except SystemExit:
            raise
        except BaseException as error:
            _show_without_own_frames(error)
            raise

    def _load(self) -> tuple[ModuleType, CodeType]:
        if self.is_module:
            sys.argv = ["-m", *self.arguments]  # as Python has it while packages are imported
            _replace_path(os.getcwd())
            spec = _find_module(self.target)
            sys.argv[0] = (spec and spec.origin) or self.target
            return _of_spec(spec, self.target)
        sys.argv = [self.target, *self.arguments]
        path = os.path.join(os.getcwd(), self.target)
        if _is_archive(path):
            _replace_path(path, always=True)
            return _of_spec(PathFinder.find_spec("__main__", [path]), path)
        _replace_path(os.path.dirname(os.path.realpath(path)))
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        return _new_main(file=path, loader=SourceFileLoader("__main__", path), spec=None, package=None), code


def _check_module(name: str) -> None:
    parent = name.partition(".")[0]
    found = parent in sys.modules or any(
        finder.find_spec(parent, path) is not None
        for finder, path in ((PathFinder, [os.getcwd(), *sys.path]), *((each, None) for each in sys.meta_path))
        if hasattr(finder, "find_spec")
    )
    if not found:
        raise ScriptError(f"MODULE must be importable, got {name!r}; for a file, leave out -m")


def _is_archive(path: str) -> bool:
    """Whether Python would look for a `__main__.py` in it: a folder or a zip file."""
    return pkgutil.get_importer(path) is not None


def _find_module(name: str) -> ModuleSpec | None:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        return importlib.util.find_spec(f"{name}.__main__")
    return spec


def _of_spec(spec: ModuleSpec | None, target: str) -> tuple[ModuleType, CodeType]:
    loader: Any = None if spec is None else spec.loader
    code = loader.get_code(spec.name) if spec is not None and hasattr(loader, "get_code") else None
    if spec is None or code is None:
        raise ImportError(f"there is no Python code to run in {target}", name=target)
    return _new_main(file=spec.origin, loader=loader, spec=spec, package=spec.parent), code


def _new_main(*, file: str | None, loader: Any, spec: ModuleSpec | None, package: str | None) -> ModuleType:
    main = ModuleType("__main__")
    vars(main).update(
        __file__=file,
        __cached__=None if spec is None else spec.cached,
        __loader__=loader,
        __package__=package,
        __spec__=spec,
        __builtins__=builtins,
        __annotations__={},
    )
    return main


def _replace_path(folder: str, *, always: bool = False) -> None:
    """Puts the script's folder where Python put the folder of this command."""
    if getattr(sys.flags, "safe_path", False):  # python -P: neither was put there
        if always:
            sys.path.insert(0, folder)
        return
    command = getattr(sys.modules["__main__"], "__file__", None)
    own = {"", os.getcwd(), os.path.dirname(os.path.realpath(command)) if command else ""}
    if sys.path and sys.path[0] in own:
        sys.path[0] = folder
    else:
        sys.path.insert(0, folder)


def _show_without_own_frames(error: BaseException) -> None:
    """Lets Python show the error as if it had run the script; the hook that the script has installed is used."""
    shown = error.__traceback__
    while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
        shown = shown.tb_next
    hook = sys.excepthook

    def show(kind: type[BaseException], raised: BaseException, traceback: TracebackType | None) -> None:
        if raised is error:
            raised.__traceback__ = traceback = shown
        hook(kind, raised, traceback)

    sys.excepthook = show
