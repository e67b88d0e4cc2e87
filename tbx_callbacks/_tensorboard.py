"""The parts of TensorBoard that reading needs; the only importer of `tensorboard`'s loaders."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing import io_wrapper
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat import tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.util.tensor_util import make_ndarray

OpError = tf.errors.OpError
START = SessionLog.START

__all__ = ["START", "DecodeError", "Event", "OpError", "RawEventFileLoader", "io_wrapper", "make_ndarray", "tf"]
