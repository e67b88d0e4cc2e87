"""Tests output paths: what is written, what is refused, and what is left behind."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tbx_callbacks.report.output import OutputError, check_path, is_stdout, make_folder, write_file
from tests.helpers.commands import COMMAND
from tests.helpers.limits import limit
from tests.helpers.report_runs import trained
from tests.helpers.variations import variations

PAGE = b"<p>\xc3\xa9</p>"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that everybody may enter, unlike tmp_path; the working folder."""
    with tempfile.TemporaryDirectory() as name, monkeypatch.context() as patch:
        folder = Path(name)
        folder.chmod(0o755)
        patch.chdir(folder)
        yield folder


@contextmanager
def as_anyone() -> Iterator[None]:
    """Runs without the rights of root, which no permission stops."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_write_file_new_name_default_permissions(here: Path) -> None:
    write_file("page.html", PAGE)
    Path("other").write_bytes(b"")
    assert Path("page.html").read_bytes() == PAGE
    assert mode(here / "page.html") == mode(here / "other")
    assert sorted(os.listdir()) == ["other", "page.html"]


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o644, 0o755, 0o400])
def test_write_file_existing_replaced_permissions_kept(here: Path, permissions: int) -> None:
    page = here / "page.html"
    page.write_bytes(b"x" * 1000)
    page.chmod(permissions)
    opened, number = page.open("rb"), page.stat().st_ino
    write_file(page, PAGE)
    assert page.read_bytes() == PAGE
    assert mode(page) == permissions
    assert page.stat().st_ino != number
    assert opened.read() == b"x" * 1000  # a reader of the old page is not disturbed
    opened.close()


@pytest.mark.parametrize("target", ["page.html", "far/page.html", "{}/far/page.html", "far/../page.html"])
@pytest.mark.parametrize("exists", [True, False])
def test_write_file_link_stays_target_written(here: Path, target: str, exists: bool) -> None:
    Path("far").mkdir()
    Path("links").mkdir()
    wanted = here / target.format(here)
    if exists:
        wanted.write_bytes(b"old")
    Path("first").symlink_to(target.format(here))
    Path("links/second").symlink_to("../first")  # relative to the folder of the link
    write_file("links/second", PAGE)
    assert wanted.read_bytes() == PAGE
    assert Path("links/second").is_symlink()
    assert Path("first").is_symlink()
    assert [path.name for path in here.rglob("*.part")] == []


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def make_circle(path: Path) -> None:
    path.symlink_to("second")
    path.with_name("second").symlink_to(path.name)


REFUSED = [
    (lambda path: path.mkdir(), "which is a folder; give the name of a file"),
    (make_fifo, "which is a pipe"),
    (make_socket, "which is a socket"),
    (make_circle, "whose links form a circle"),
    (lambda path: path.symlink_to(path.name), "whose links form a circle"),
    (make_link_to_fifo, "which is a pipe"),
    (lambda path: path.symlink_to("."), "which is a folder"),
    (lambda path: path.symlink_to("nowhere/page.html"), "must be in a folder that exists"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_write_file_refuses_what_is_no_file(here: Path, make: object, words: str) -> None:
    make(here / "page")  # type: ignore[operator]
    before = {path.name: os.lstat(path).st_ino for path in here.iterdir()}
    for act in (check_path, lambda path: write_file(path, PAGE)):
        with pytest.raises(OutputError, match="OUTPUT must be") as raised:
            act("page")
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)
    assert {path.name: os.lstat(path).st_ino for path in here.iterdir()} == before


PATHS = [
    ("", "which is a folder"),
    (".", "which is a folder"),
    ("/", "which is a folder"),
    ("..", "which is a folder"),
    ("new/", "which is a folder"),
    ("new/.", "which is a folder"),
    ("file/..", "which is a folder"),
    ("file/", "which is a folder"),
    ("missing/page.html", "must be in a folder that exists, got 'missing/page.html'; create it: mkdir -p"),
    ("file/page.html", "OUTPUT must be"),
    ("file/sub/page.html", "OUTPUT must be"),
    ("a\0b", "embedded null byte"),
    ("\ud800", "surrogates not allowed"),
    ("n" * 300, "File name too long"),
    ("n/" * 5000, "OUTPUT must be"),
]


@pytest.mark.parametrize(("path", "words"), PATHS, ids=[path[:20].replace("\0", "NUL") for path, _ in PATHS])
def test_write_file_path_mistake_one_line(here: Path, path: str, words: str) -> None:
    Path("file").write_bytes(b"kept")
    for act in (check_path, lambda given: write_file(given, PAGE)):
        with pytest.raises(OutputError) as raised:
            act(path)
        assert words in str(raised.value)
        assert len(str(raised.value)) < 700
    assert [(found.name, found.read_bytes()) for found in here.iterdir()] == [("file", b"kept")]


def test_write_file_name_of_any_length_written(here: Path) -> None:
    for name in ("n" * 255, "\udcff", " ", "-o", "a\nb", "~", "page.html.part"):
        write_file(f"./{name}", PAGE)
        assert Path(f"./{name}").read_bytes() == PAGE
    assert len(os.listdir()) == 7


def test_write_file_read_only_folder_untouched(open_folder: Path) -> None:
    folder = open_folder / "locked"
    folder.mkdir()
    (folder / "old.html").write_bytes(b"old")
    folder.chmod(0o555)
    with as_anyone():
        for name in ("locked/old.html", "locked/new.html"):
            with pytest.raises(OutputError, match=r"must be a file that can be written, got 'locked/.*denied"):
                write_file(name, PAGE)
        with pytest.raises(OutputError, match=r"must be a folder or a new name in one, got 'locked/png': .*Permission"):
            make_folder("locked/png")
    folder.chmod(0o755)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("old.html", b"old")]


@pytest.mark.parametrize("permissions", [0o555, 0o1777], ids=["read-only", "sticky"])
@pytest.mark.parametrize("old", [b"", b"old", b"x" * 100], ids=len)
def test_write_file_not_replaceable_written_in_place(
    open_folder: Path, permissions: int, old: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    if permissions == 0o1777 and os.geteuid() != 0:
        pytest.skip("only root can make a file of another user")
    folder = open_folder / "folder"
    folder.mkdir()
    page = folder / "page.html"
    page.write_bytes(old)
    page.chmod(0o666)
    folder.chmod(permissions)
    number = page.stat().st_ino
    with as_anyone():
        write_file("folder/page.html", PAGE)
    folder.chmod(0o755)
    assert (page.read_bytes(), mode(page), page.stat().st_ino) == (PAGE, 0o666, number)
    assert os.listdir(folder) == ["page.html"]
    assert [record.getMessage() for record in caplog.records] == [
        f"'{page}' is written in place: it cannot be replaced; a reader may see a part of it"
    ]


def test_write_file_in_place_disk_full_untouched(open_folder: Path) -> None:
    folder = open_folder / "folder"
    folder.mkdir()
    page = folder / "page.html"
    page.write_bytes(b"old")
    page.chmod(0o666)
    folder.chmod(0o555)
    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with as_anyone(), pytest.raises(OutputError, match="File too large"):
            write_file("folder/page.html", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)
        folder.chmod(0o755)
    assert page.read_bytes() == b"old"


def test_write_file_mounted_file_written_in_place(here: Path) -> None:
    code = (
        "mount --bind source page.html && exec "
        f"{sys.executable} -c \"from tbx_callbacks.report.output import write_file; write_file('page.html', b'new')\""
    )
    Path("source").write_bytes(b"the old content")
    Path("page.html").write_bytes(b"below")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", code], capture_output=True, text=True, timeout=limit(60), check=True
    )
    assert Path("source").read_bytes() == b"new"
    assert sorted(os.listdir()) == ["page.html", "source"]
    assert "is written in place" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group that it is not in")
@pytest.mark.parametrize(("owner", "permissions"), [(0, 0o640), (0, 0o664), (65534, 0o660)])
def test_write_file_owner_and_group_kept(here: Path, owner: int, permissions: int) -> None:
    page = here / "page.html"
    page.write_bytes(b"old")
    os.chown(page, owner, 33)
    page.chmod(permissions)
    write_file(page, PAGE)
    found = page.stat()
    assert (found.st_uid, found.st_gid, mode(page), page.read_bytes()) == (owner, 33, permissions, PAGE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group that it is not in")
@pytest.mark.parametrize(("permissions", "wanted"), [(0o640, 0o600), (0o664, 0o644), (0o660, 0o600), (0o777, 0o777)])
def test_write_file_foreign_group_gets_nothing(open_folder: Path, permissions: int, wanted: int) -> None:
    open_folder.chmod(0o777)
    page = open_folder / "page.html"
    page.write_bytes(b"old")
    os.chown(page, 65534, 33)
    page.chmod(permissions)
    group, more = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    try:
        with as_anyone():  # who may not give the new file to group 33
            write_file(page, PAGE)
    finally:
        os.setegid(group)
        os.setgroups(more)
    assert (page.stat().st_gid, mode(page)) == (65534, wanted)


def test_write_file_hard_link_keeps_old_content(here: Path) -> None:
    Path("page.html").write_bytes(b"old")
    os.link("page.html", "other")
    write_file("page.html", PAGE)
    assert (Path("page.html").read_bytes(), Path("other").read_bytes()) == (PAGE, b"old")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", variations(["TERM", "HUP", "QUIT", "USR1", "USR2", "XCPU", "ALRM", "INT"], "TERM", "INT")
)
@pytest.mark.parametrize("moment", ["open", "os.chmod", "os.rename"])
def test_write_file_signal_leaves_nothing(here: Path, name: str, moment: str) -> None:
    Path("page.html").write_bytes(b"old")
    # The signal arrives when the new file is opened, gets its permissions, or gets its name.
    code = (
        "import os, signal, sys, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        f"number = signal.SIG{name}; signal.signal(number, signal.SIG_DFL)\n"
        f"wanted = {moment!r}\n"
        "def watch(event, arguments):\n"
        "    if event == wanted and '.part' in str(arguments[0]):\n"
        "        print(os.listdir(), file=sys.stderr)\n"
        "        os.kill(os.getpid(), number)\n"
        "from tbx_callbacks.report.output import write_file\n"
        "sys.addaudithook(watch)\n"
        "write_file('page.html', b'new')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=limit(60))
    assert done.returncode == -getattr(signal, f"SIG{name}")
    assert ".part" in done.stderr or moment == "open"
    assert [(path.name, path.read_bytes()) for path in here.iterdir()] == [("page.html", b"old")]


def test_write_file_signal_handlers_left_alone(here: Path) -> None:
    def own(number: int, frame: object) -> None: ...

    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGHUP, own)
    try:
        write_file("page.html", PAGE)
        assert signal.getsignal(signal.SIGHUP) is own
        assert {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} == {
            before[signal.SIGTERM],
            before[signal.SIGINT],
        }
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    thread = threading.Thread(target=write_file, args=("other.html", PAGE))  # which may set no handler
    thread.start()
    thread.join()
    assert Path("other.html").read_bytes() == PAGE


def test_write_file_disk_full_old_page_stays(here: Path) -> None:
    page = here / "page.html"
    page.write_bytes(b"old")
    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OutputError, match="File too large"):
            write_file(page, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)
    assert [(path.name, path.read_bytes()) for path in here.iterdir()] == [("page.html", b"old")]


def test_make_folder_new_or_existing_only(here: Path) -> None:
    assert make_folder("png").is_dir()
    assert make_folder("png") == Path("png")
    Path("link").symlink_to("png")
    assert make_folder("link").is_dir()
    Path("file").write_bytes(b"")
    os.mkfifo("pipe")
    Path("dangling").symlink_to("nowhere")
    for path in ("", "file", "pipe", "dangling", "missing/png", "file/png", "a\0b", "n" * 300):
        with pytest.raises(OutputError, match="must be a folder or a new name in one, got"):
            make_folder(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/../dev/stdout", "link"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_write_file_standard_output_never_replaced(here: Path, path: str, kind: str) -> None:
    Path("link").symlink_to("/dev/stdout")
    code = (
        "import os, sys; from tbx_callbacks.report.output import is_stdout, write_file; print('before');"
        f"assert is_stdout({path!r}); number = os.fstat(1).st_ino;"
        f"write_file({path!r}, {PAGE!r}); print('after'); assert os.fstat(1).st_ino == number"
    )
    with open("out", "wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=out if kind == "file" else subprocess.PIPE,
            timeout=limit(60),
            check=True,
        )
    assert (done.stdout or Path("out").read_bytes()) == b"before\n" + PAGE + b"after\n"
    assert os.path.islink("/dev/stdout")
    assert sorted(os.listdir()) == ["link", "out"]


@pytest.mark.parametrize("path", ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2", "link"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_check_path_refuses_other_descriptors(here: Path, path: str, kind: str) -> None:
    Path("link").symlink_to("/dev/stderr")
    code = (
        "from tbx_callbacks.report.output import OutputError, check_path\n"
        f"try: check_path({path!r})\n"
        "except OutputError as error: print(error)"
    )
    with open("err", "wb") as err:
        output = err if kind == "file" else subprocess.PIPE
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=output, timeout=limit(60), check=True
        )
    assert b"which is a device; use - for standard output" in done.stdout
    assert Path("err").read_bytes() == b""


def test_write_file_closed_output_clear_error(here: Path) -> None:
    code = (
        "import sys; from tbx_callbacks.report.output import write_file\n"
        "try: write_file('-', b'x' * 10_000_000)\n"
        "except OSError as error: print(error, file=sys.stderr); sys.exit(2)"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, timeout=limit(60))
    os.close(writing)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"Broken pipe" in done.stderr


def test_write_file_link_to_other_name(here: Path) -> None:
    Path("a").symlink_to("/dev/fd/1")
    assert is_stdout("a")
    assert not is_stdout("b")


def test_report_command_page_on_standard_output(here: Path) -> None:
    trained(here / "run", steps=8)
    done = subprocess.run(
        [*COMMAND, "report", "run", "-o", "-"], capture_output=True, timeout=limit(120), cwd=here, check=True
    )
    assert done.stdout.startswith(b"<!doctype html>")
    assert done.stdout.rstrip().endswith(b"</html>")
    assert done.stderr == b"report: -\n"
    assert os.listdir() == ["run"]
