"""Writes the files that a user names: whole or not at all, and never over a device."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from io import UnsupportedOperation
from pathlib import Path

from tbx_callbacks._text import short, words

logger = logging.getLogger(__name__)

STDOUT = "-"
_STDOUT_PATH = re.compile(r"/dev/(stdout|fd/1)|/proc/self(/task/\d+)?/fd/1")
_DESCRIPTOR_PATH = re.compile(r"/dev/(fd/\d+|stderr|stdin)|/proc/[^/]+(/task/\d+)?/fd/\d+")
_MAX_LINKS = 40  # as Linux follows
_IN_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
"""Errors of a folder that lets nobody replace its files: read-only, sticky, or the file is mounted by itself."""
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2", "SIGALRM")
"""Signals that end a process without a further step, unless it handles them."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class OutputError(OSError):
    """A path that cannot be written. The message names the rule, the value and the remedy."""


def is_stdout(path: str | os.PathLike[str]) -> bool:
    """Whether the path stands for the standard output: `-`, `/dev/stdout`, or a link to it.

    Raises:
        OutputError: see `write_file`.
    """
    return _place(path) is None


def check_path(path: str | os.PathLike[str]) -> None:
    """Checks a path without writing to it.

    Raises:
        OutputError: see `write_file`.
    """
    _place(path)


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file that appears at once and complete, or writes to the standard output.

    The path is a new name, a regular file, or a link to one of these. Another file takes the place of an existing one,
    with its permissions, and with its owner and group as far as the system allows. Extended attributes are not kept,
    and other hard links keep the old content. A symbolic link stays, and its target is replaced. An error, or a signal
    that ends the process, leaves everything as it was.

    Where the file can be written but not replaced, as in a read-only folder, it is written in place, and a warning says
    so: a reader may see a part of it, and only a lack of space leaves it as it was.

    Args:
        path: of the file; `-` and `/dev/stdout` are the standard output, which is written to and never replaced.
        content: of the file.

    Raises:
        OutputError: it is a folder, a device, a pipe or a socket, or cannot be written.
    """
    place = _place(path)
    try:
        if place is None:
            _write_stdout(content)
        else:
            _write(place, content)
    except OSError as error:
        raise OutputError(f"OUTPUT must be a file that can be written, got {_shown(path)}: {error}") from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Returns the folder of a path, which is created if the name is new.

    Raises:
        OutputError: it is something else, or cannot be created.
    """
    if not os.fspath(path):
        raise OutputError("a folder for files must be a folder or a new name in one, got ''; give its name")
    folder = Path(path)
    try:
        if not os.path.isdir(folder):
            os.mkdir(folder)
    except (OSError, ValueError) as error:
        why = "it exists, but is no folder" if isinstance(error, FileExistsError) else words(error)
        raise OutputError(
            f"a folder for files must be a folder or a new name in one, got {_shown(path)}: {why}"
        ) from error
    return folder


def _place(path: str | os.PathLike[str]) -> Path | None:
    """The path of the file at the end of all links; None for the standard output. Opens nothing."""
    given = os.fspath(path)
    if given == STDOUT:
        return None
    shown = _shown(given)
    if os.path.basename(given) in ("", os.curdir, os.pardir):  # Path would make another name of it
        raise OutputError(f"OUTPUT must be a file, got {shown}, which is a folder; give the name of a file")
    try:
        place = Path(os.getcwd(), given)
        for _ in range(_MAX_LINKS):
            # The folder that really holds the name, so that `..` and relative links mean what they mean to the system.
            place = Path(os.path.realpath(place.parent)) / place.name
            if _STDOUT_PATH.fullmatch(str(place).replace(f"/proc/{os.getpid()}/", "/proc/self/")):
                return None
            if _DESCRIPTOR_PATH.fullmatch(str(place)):
                raise OutputError(f"OUTPUT must be a file, got {shown}, which is a device; use - for standard output")
            if not place.is_symlink():
                break
            place = place.parent / os.readlink(place)
        else:
            raise OutputError(f"OUTPUT must be a file, got {shown}, whose links form a circle; name the file itself")
        _check_kind(place, shown)
    except OutputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError: NUL, or characters that no file name can have
        raise OutputError(f"OUTPUT must be the path of a file, got {shown}: {words(error)}") from error
    return place


def _check_kind(place: Path, shown: str) -> None:
    try:
        kind = stat.S_IFMT(os.lstat(place).st_mode)
    except FileNotFoundError:
        if not place.parent.is_dir():
            raise OutputError(
                f"OUTPUT must be in a folder that exists, got {shown}; create it: mkdir -p {_shown(place.parent)}"
            ) from None
        return
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "no file")
        raise OutputError(f"OUTPUT must be a file, got {shown}, which is {what}; give the name of a file")


def _write(place: Path, content: bytes) -> None:
    """Replaces the file, or else writes in place."""
    old = os.lstat(place) if os.path.lexists(place) else None
    try:
        _replace(place, content, old)
    except OSError as error:
        if old is None or error.errno not in _IN_PLACE:
            raise
        try:
            descriptor = os.open(place, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        except OSError:
            raise error from None
        with os.fdopen(descriptor, "wb") as file:
            _reserve(descriptor, len(content), old.st_size)
            file.write(content)
            file.truncate()
        logger.warning("%s is written in place: it cannot be replaced; a reader may see a part of it", _shown(place))


def _replace(place: Path, content: bytes, old: os.stat_result | None) -> None:
    """Writes a new file beside the place, and renames it."""
    temporary = place.with_name(f".tbx-{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with _removed_at_end(temporary):
        # The file of a page that others may not read is never readable to them, not even while it is written.
        descriptor = os.open(temporary, flags, 0o666 if old is None else 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if old is not None:
                _take_over(temporary, old)
        os.replace(temporary, place)


@contextlib.contextmanager
def _removed_at_end(temporary: Path) -> Iterator[None]:
    """Removes a file after an error, and before a signal ends the process, which then ends as it would without this."""

    def end(number: int, _: object) -> None:
        temporary.unlink(missing_ok=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()  # only this one may set handlers
    ending = [number for number in numbers if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, end)
    try:
        yield
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        for number in ending:
            if signal.getsignal(number) is end:
                signal.signal(number, signal.SIG_DFL)


def _reserve(descriptor: int, size: int, old_size: int) -> None:
    """Takes the space for a file before its content changes.

    Raises:
        OSError: there is too little; the file is as before.
    """
    if size <= old_size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, old_size, size - old_size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            os.ftruncate(descriptor, old_size)
            raise


def _take_over(path: Path, old: os.stat_result) -> None:
    """Gives a new file the owner, the group, as far as the system allows it, and the permissions of the old one."""
    permissions, new = stat.S_IMODE(old.st_mode) & 0o777, os.stat(path)
    for owner, group in ((old.st_uid, old.st_gid), (-1, old.st_gid)) if hasattr(os, "chown") else ():
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with contextlib.suppress(PermissionError):  # then the file is ours, as after any editor that replaces it
                os.chown(path, owner, group, follow_symlinks=False)
                break
    if os.stat(path).st_gid != old.st_gid:  # another group gets no more than everybody
        permissions &= ~0o070 | (permissions & 0o007) << 3
    os.chmod(path, permissions)


def _shown(path: str | os.PathLike[str]) -> str:
    return short(os.fspath(path), 200)


def _write_stdout(content: bytes) -> None:
    if sys.stdout is None:
        raise OSError("the standard output is closed")
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (UnsupportedOperation, AttributeError):  # replaced, as in a notebook or a test
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    rest = memoryview(content)  # without a buffer, which a closed pipe would leave filled
    while rest:
        rest = rest[os.write(descriptor, rest) :]
