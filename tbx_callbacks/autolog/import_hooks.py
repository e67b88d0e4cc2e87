"""Calls functions after modules are imported, so that nothing imports them early."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]


class ImportHooks:
    """A finder of `sys.meta_path` that finds nothing by itself: it adds actions to the modules that others find."""

    def __init__(self) -> None:
        self._actions: dict[str, list[Action]] = {}

    def after_import(self, name: str, action: Action) -> None:
        """Calls `action(module)` once: now if the module is imported already, else right after its import."""
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            action(module)
            return
        self._actions.setdefault(name, []).append(action)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec that the other finders have for the module, if an action waits for it; part of Python."""
        if name not in self._actions:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: ModuleSpec) -> None:
        """Wraps `exec_module` of this spec's loader; the module keeps its loader, and sees no other one."""
        loader: Any = spec.loader
        if loader is None or isinstance(loader, type):  # a namespace, or a loader that all modules share
            return
        original = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            if module.__spec__ is spec:  # an archive has one loader for all its modules
                if vars(loader).get("exec_module") is exec_module:
                    del loader.exec_module
                self._run(module)

        loader.exec_module = exec_module

    def _run(self, module: ModuleType) -> None:
        actions = self._actions.pop(module.__name__, [])
        if not self._actions and self in sys.meta_path:
            sys.meta_path.remove(self)
        for action in actions:
            action(module)


_hooks = ImportHooks()
after_import = _hooks.after_import
