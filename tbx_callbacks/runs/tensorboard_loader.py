"""The parts of TensorBoard that reading needs; the only importer of `tensorboard`'s loaders."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing import io_wrapper
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat import tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

OpError = tf.errors.OpError
START = SessionLog.START

__all__ = [
    "START",
    "DecodeError",
    "Event",
    "OpError",
    "RawEventFileLoader",
    "hparams",
    "io_wrapper",
    "make_ndarray",
    "tf",
]


def hparams(content: bytes) -> dict[str, bool | float | str]:
    """The hyper-parameters that a run began with."""
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    found = {name: getattr(value, value.WhichOneof("kind") or "string_value") for name, value in given.items()}
    return dict(sorted(found.items()))
