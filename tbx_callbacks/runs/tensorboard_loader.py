"""Imports the parts of TensorBoard that read event files; no other module imports them."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing import io_wrapper
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat import tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

OpError = tf.errors.OpError
START = SessionLog.START
_STATUSES = {1: "succeeded", 2: "failed"}  # STATUS_SUCCESS, STATUS_FAILURE of the plugin's api.proto
_HPARAM_KINDS = ("bool_value", "number_value", "string_value")

__all__ = [
    "START",
    "DecodeError",
    "Event",
    "OpError",
    "end_status",
    "hparams",
    "io_wrapper",
    "make_ndarray",
    "remote_records",
    "tf",
]


def remote_records(path: str) -> Iterator[bytes]:
    """Yields the data of each record of a remote file, as TensorBoard reads it."""
    yield from RawEventFileLoader(path).Load()


def hparams(content: bytes) -> dict[str, bool | float | str]:
    """Returns the hyper-parameters of a run, from the data of the HParams plugin.

    Raises:
        ValueError: it cannot be parsed.
    """
    try:
        protos = HParamsPluginData.FromString(content).session_start_info.hparams
    except DecodeError as error:
        raise ValueError("its hyper-parameters cannot be parsed") from error
    kinds = {name: value.WhichOneof("kind") for name, value in protos.items()}
    return {name: getattr(protos[name], kind) for name, kind in sorted(kinds.items()) if kind in _HPARAM_KINDS}


def end_status(content: bytes) -> str:
    """Returns the status at the end of a run, from the data of the HParams plugin: see `Run.status`.

    Raises:
        ValueError: it cannot be parsed.
    """
    try:
        return _STATUSES.get(HParamsPluginData.FromString(content).session_end_info.status, "")
    except DecodeError as error:
        raise ValueError("its status cannot be parsed") from error
