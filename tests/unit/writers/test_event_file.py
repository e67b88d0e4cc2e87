"""Tests event files: their names, and what happens when other code moves, replaces, changes or closes one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tbx_callbacks.writers.event_file import LocalFile, file_name
from tbx_callbacks.writers.tensorboard import TensorBoardWriter
from tests.helpers.handles import handles
from tests.helpers.processes import python
from tests.helpers.runs import Run, files

FOREIGN = b"foreign bytes"


def test_event_files_of_writers_in_folder_differ(tmp_path: Path) -> None:
    writers = [TensorBoardWriter(tmp_path) for _ in range(5)]
    for index, writer in enumerate(writers):
        writer.write(1, {f"writer{index}": 1.0})
    for writer in writers:
        writer.close()
    assert len(files(tmp_path)) == 5
    assert set(Run(tmp_path).scalars) == {f"writer{index}" for index in range(5)}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_two_processes_write_one_folder(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from tbx_callbacks.writers import TensorBoardWriter\n"
        "wait, start = os.pipe()\n"
        "for name in ('a', 'b'):\n"
        "    if os.fork() == 0:\n"
        "        os.close(start)\n"
        "        os.read(wait, 1)  # until both exist\n"
        "        writer = TensorBoardWriter(sys.argv[1])\n"
        "        for step in range(1, 301):\n"
        "            writer.write(step, {name: float(step)})\n"
        "        writer.close()\n"
        "        os._exit(0)\n"
        "os.close(start)\n"
        "print(os.wait()[1], os.wait()[1])"
    )
    done = python("-W", "ignore::DeprecationWarning", "-c", code, tmp_path)
    assert (done.stdout, done.stderr) == ("0 0\n", "")
    assert len(files(tmp_path)) == 2
    read = Run(tmp_path)
    assert read.steps("a") == read.steps("b") == list(range(1, 301))


def seconds_ago(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Sets the clock back, as far as this process can see."""
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() - seconds)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - seconds * 10**9)


def test_file_after_clock_set_back_sorts_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 6):
        writer = TensorBoardWriter(tmp_path)
        for part in range(2):  # the second part goes on with the same file
            writer.write(2 * step + part, {"a": float(step)})
            writer.close()
        seconds_ago(monkeypatch, 3600)
    assert len(files(tmp_path)) == 5
    assert Run(tmp_path).steps("a") == list(range(2, 12))


@pytest.mark.parametrize(
    "existing",
    [
        "events.out.tfevents.4000000000.host.123",
        f"events.out.tfevents.{int(time.time()) + 5}.zzz.1.v2",
        "events.out.tfevents.4000000000.host.profile-empty",
    ],
    ids=["future", "now", "profile"],  # not the time: workers must collect the same tests
)
def test_file_name_sorts_after_existing(existing: str) -> None:
    assert file_name(["other", "events.out.tfevents.profile", existing]) > existing


def test_file_name_of_other_hosts_ignored() -> None:
    assert file_name([]).startswith(f"events.out.tfevents.{time.time():.0f}"[:-3])
    assert f".{socket.gethostname()}." in file_name(["events.out.tfevents.99999999999.host"])
    assert file_name(["zzz", "events.out.tfevents"]).startswith("events.out.tfevents.1")


def test_name_taken_by_other_host_another_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = file_name()
    (tmp_path / taken).write_bytes(FOREIGN)
    names = iter([taken, taken, file_name()])
    monkeypatch.setattr("tbx_callbacks.writers.event_file.file_name", lambda existing: next(names))
    writer = TensorBoardWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    writer.close()
    assert (tmp_path / taken).read_bytes() == FOREIGN
    (tmp_path / taken).unlink()
    assert Run(tmp_path).steps("a") == [1]


def rename(path: Path, spare: Path) -> Path:
    return path.rename(path.with_name("events.out.tfevents.0000000001.renamed")).parent


def move(path: Path, spare: Path) -> Path:
    return path.rename(spare / path.name).parent


def move_folder(path: Path, spare: Path) -> Path:
    return path.parent.rename(spare / "run")


def move_parent(path: Path, spare: Path) -> Path:
    return path.parent.parent.rename(spare / "runs") / path.parent.name


def delete(path: Path, spare: Path) -> None:
    path.unlink()


def delete_folder(path: Path, spare: Path) -> None:
    shutil.rmtree(path.parent)


def delete_with_link(path: Path, spare: Path) -> Path:
    (spare / path.name).hardlink_to(path)
    path.unlink()
    return spare


def replace(path: Path, spare: Path) -> None:
    (spare / "foreign").write_bytes(FOREIGN)
    (spare / "foreign").replace(path)


def replace_by_link(path: Path, spare: Path) -> Path:
    found = path.rename(spare / path.name).parent
    (spare / "foreign").write_bytes(FOREIGN)
    path.symlink_to(spare / "foreign")
    return found


def replace_by_folder(path: Path, spare: Path) -> Path:
    found = path.rename(spare / path.name).parent
    path.mkdir()
    return found


def replace_by_copy(path: Path, spare: Path) -> Path:
    shutil.copy(path, spare / "copy")
    path.rename(spare / path.name)
    (spare / "copy").replace(path)
    return spare


def redirect_folder(path: Path, spare: Path) -> Path:
    found = path.parent.rename(spare / "run")
    (spare / "other").mkdir()
    path.parent.symlink_to(spare / "other")
    return found


def empty(path: Path, spare: Path) -> None:
    os.truncate(path, 0)


def shorten(path: Path, spare: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append(path: Path, spare: Path) -> Path:
    with path.open("ab") as file:
        file.write(FOREIGN)
    return path.parent


def close_descriptor(path: Path, spare: Path) -> Path:
    os.close(descriptor_of(path))
    return path.parent


def take_descriptor(path: Path, spare: Path) -> Path:
    (spare / "foreign").write_bytes(FOREIGN)
    file = os.open(spare / "foreign", os.O_RDWR | os.O_APPEND)
    os.dup2(file, descriptor_of(path))
    os.close(file)
    return path.parent


def descriptor_of(path: Path) -> int:
    for number in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{number}") and os.path.samefile(f"/proc/self/fd/{number}", path):
            return int(number)
    raise AssertionError(f"{path} is not open")


LEFT: dict[Callable[[Path, Path], Path | None], str] = {
    rename: "was moved",
    move: "was moved",
    move_folder: "was moved",
    move_parent: "was moved",
    delete: "was deleted",
    delete_folder: "was deleted",
    delete_with_link: "was moved",
    replace: "was replaced by another file",
    replace_by_link: "was replaced by another file",
    replace_by_folder: "was replaced by another file",
    replace_by_copy: "was replaced by another file",
    redirect_folder: "was moved",
    empty: "was shortened by other code",
    shorten: "was shortened by other code",
    append: "was changed by other code",
    close_descriptor: "was closed by other code",
    take_descriptor: "was closed by other code",
}
"""Acts of other code, which return where the earlier steps are then, and the reason in the warning."""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("act", LEFT, ids=lambda act: act.__name__)
def test_file_left_new_file_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, act: Callable[[Path, Path], Path | None]
) -> None:
    before = handles()
    spare = tmp_path / "spare"
    spare.mkdir()
    folder = tmp_path / "runs" / "run"
    writer = TensorBoardWriter(folder)
    for step in (1, 2, 3):
        writer.write(step, {"a": float(step)})
    writer.flush()
    (path,) = files(folder)
    found = act(path, spare)
    for step in (4, 5, 6):
        writer.write(step, {"a": float(step)})
        writer.flush()
    writer.close()
    (message,) = [record.getMessage() for record in caplog.records]
    new = files(folder)[-1]
    assert message.startswith(f"{path} {LEFT[act]}")
    assert message.endswith(f"; later values go to {new}")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(new, alone)
    assert Run(alone).steps("a") == [4, 5, 6]
    if found is not None:
        kept = tmp_path / "kept"
        kept.mkdir()
        first = min(files(found))
        shutil.copy(first, kept)
        assert Run(kept).steps("a") == [1, 2, 3]
    for foreign in (spare / "foreign", path if act is replace else None):
        if foreign is not None and foreign.exists():
            assert foreign.read_bytes() == FOREIGN
    if act is append:
        assert path.read_bytes().endswith(FOREIGN)
    if act is take_descriptor:
        (left,) = [target for target in handles() if target not in before]  # it is not the writer's to close
        assert left == str(spare / "foreign")
        os.close(descriptor_of(spare / "foreign"))
    assert handles() == before


def rename_and_back(path: Path, spare: Path) -> None:
    path.rename(spare / path.name).rename(path)


def move_folder_and_back(path: Path, spare: Path) -> None:
    path.parent.rename(spare / "run").rename(path.parent)


def link_folder(path: Path, spare: Path) -> None:
    path.parent.rename(spare / "run")
    path.parent.symlink_to(spare / "run")


def add_link(path: Path, spare: Path) -> None:
    (spare / "link").hardlink_to(path)


def touch(path: Path, spare: Path) -> None:
    os.utime(path, (1, 1))
    path.chmod(0o400)


@pytest.mark.parametrize(
    "act", [rename_and_back, move_folder_and_back, link_folder, add_link, touch], ids=lambda act: act.__name__
)
def test_file_still_there_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, act: Callable[[Path, Path], None]
) -> None:
    spare, folder = tmp_path / "spare", tmp_path / "run"
    spare.mkdir()
    writer = TensorBoardWriter(folder)
    writer.write(1, {"a": 1.0})
    writer.flush()
    act(files(folder)[0], spare)
    writer.write(2, {"a": 2.0})
    writer.close()
    assert len(files(folder)) == 1
    assert Run(folder).steps("a") == [1, 2]
    assert caplog.text == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
@pytest.mark.parametrize("act", ["mount over it", "unmount"])
def test_mount_changes_new_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, act: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount() -> None:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr.decode().strip()}")

    def unmount() -> None:
        subprocess.run(["umount", "-l", str(disk)], check=True)

    first, then = (mount, unmount) if act == "unmount" else (lambda: None, mount)
    first()
    writer = TensorBoardWriter(disk / "run")
    writer.write(1, {"a": 1.0})
    writer.flush()
    then()
    writer.write(2, {"a": 2.0})
    writer.close()
    assert Run(disk / "run").steps("a") == [2]
    if act != "unmount":
        unmount()
    assert "was moved; later values go to" in caplog.text
    assert len(caplog.records) == 1


def test_local_file_appends_after_failed_open(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    file = LocalFile(str(folder), b"header")
    assert file.write([b"one"]) == 1
    shutil.rmtree(folder)
    folder.write_text("in the way")
    for _ in range(3):
        with pytest.raises(OSError, match=r"Not a directory|File exists"):
            file.write([b"two"])
    folder.unlink()
    assert file.write([b"two", b"three"]) == 2
    file.close()
    assert files(folder)[0].read_bytes() == b"headertwothree"


def test_file_left_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    file = LocalFile(str(tmp_path / "run"), b"header")
    file.write([b"one"])
    old = Path(file.path).rename(tmp_path / "moved").stat().st_ino
    file.write([b"two"])
    file.sync()
    assert synced == [old, Path(file.path).stat().st_ino]
    file.close()
