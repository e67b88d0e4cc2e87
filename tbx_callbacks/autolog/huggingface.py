"""Gives new transformers Trainers the callback, and adds `report_to="tbx_callbacks"`.

Wraps `Trainer.__init__` and `Trainer.add_callback` when `transformers.trainer` is imported, in this one place. Without
settings (`init`, `tbx-callbacks run`) and without `report_to="tbx_callbacks"` they do what they did before.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tbx_callbacks.autolog.import_hooks import after_import
from tbx_callbacks.autolog.settings import Settings, active

logger = logging.getLogger(__name__)

NAME = "tbx_callbacks"
"""The name of the integration in `report_to`."""

_KEPT = "_tbx_callbacks_automatic"
_automatic: weakref.WeakSet[Any] = weakref.WeakSet()  # callbacks that no code of the user created


def register() -> None:
    """Patches the Trainer, now if it is imported, or else once it is."""
    after_import("transformers.trainer", _patch)


class ReportTo:
    """Stands for the callback in transformers' table of integrations, which makes an instance of it for a Trainer."""

    def __new__(cls) -> Any:
        """Returns the callback, with the settings of `init`, of the environment, or the set `default`."""
        return _new_callback(active() or Settings.from_environment() or Settings())


def _patch(module: ModuleType) -> None:
    try:
        integrations = sys.modules["transformers.integrations.integration_utils"].INTEGRATION_TO_CALLBACK
        integrations.setdefault(NAME, ReportTo)
        _wrap(module.Trainer)
    except Exception as error:  # another release of transformers
        if active() is not None:
            logger.warning("no trainer is logged: %s; pass TbxTrainerCallback to it", error)


def _wrap(trainer: Any) -> None:
    init, add_callback = trainer.__init__, trainer.add_callback
    signature = inspect.signature(init)

    @functools.wraps(init)
    def init_and_attach(self: Any, *args: Any, **kwargs: Any) -> None:
        args, kwargs = _with_callback(signature, (self, *args), kwargs)
        init(*args, **kwargs)
        _attach(self)

    @functools.wraps(add_callback)
    def give_way(self: Any, callback: Any) -> Any:
        if _is_ours(callback):
            _remove_automatic(self)
        return add_callback(self, callback)

    trainer.__init__, trainer.add_callback = init_and_attach, give_way


def _with_callback(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of `Trainer.__init__`, with a callback among them if there is none of this package."""
    settings = active()
    if settings is not None:
        with _guard():
            # Not bound to the signature: a decorator of transformers may rename arguments, such as `tokenizer`.
            by_position = dict(zip(signature.parameters, args, strict=False))
            given = {**by_position, **kwargs}
            callbacks = given.get("callbacks") or []
            reports = getattr(given.get("args"), "report_to", None) or ()
            if isinstance(callbacks, list) and NAME not in reports and not any(map(_is_ours, callbacks)):
                callbacks = [*callbacks, _new_callback(settings)]
                if "callbacks" not in by_position:
                    return args, {**kwargs, "callbacks": callbacks}
                by_position["callbacks"] = callbacks
                return tuple(by_position.values()) + args[len(by_position) :], dict(kwargs)
    return args, dict(kwargs)


def _attach(trainer: Any) -> None:
    """Attaches an automatic callback, or removes it if the user's code passed one."""
    if not _automatic:
        return
    with _guard():
        callbacks = trainer.callback_handler.callbacks
        if any(_is_ours(callback) and not _is_automatic(callback) for callback in callbacks):
            _remove_automatic(trainer)
        for callback in filter(_is_automatic, trainer.callback_handler.callbacks):
            callback.attach(trainer)
            # Nobody else keeps it, where the Trainer replaces it by one that it restores from a checkpoint.
            setattr(trainer, _KEPT, callback)


def _new_callback(settings: Settings) -> Any:
    from tbx_callbacks.integrations.huggingface.callback import TbxTrainerCallback

    callback = TbxTrainerCallback(settings.config, log_dir=settings.log_dir)
    _automatic.add(callback)
    return callback


def _is_ours(callback: Any) -> bool:
    """Whether it is a callback of this package, or its class."""
    module = sys.modules.get("tbx_callbacks.integrations.huggingface.callback")
    cls = callback if isinstance(callback, type) else type(callback)
    return cls is ReportTo or (module is not None and issubclass(cls, module.TbxTrainerCallback))


def _is_automatic(callback: Any) -> bool:
    return any(callback is each for each in _automatic)


def _remove_automatic(trainer: Any) -> None:
    handler = trainer.callback_handler
    handler.callbacks = [callback for callback in handler.callbacks if not _is_automatic(callback)]
    vars(trainer).pop(_KEPT, None)


@contextmanager
def _guard() -> Iterator[None]:
    """Lets a script go on without monitoring, with one warning; only a wrong metric set ends it, before it trains."""
    from tbx_callbacks._config.errors import ConfigError

    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        logger.warning("this trainer is not logged: %s; pass TbxTrainerCallback to it", error)
