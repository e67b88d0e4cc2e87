"""Imports the parts of TensorBoard that read event files; no other module imports them."""

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
    """Returns the hyper-parameters of a run, from the data of the HParams plugin."""
    protos = HParamsPluginData.FromString(content).session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind") or "string_value") for name, value in protos.items()}
    return dict(sorted(values.items()))
