"""Each request of ferrule.ioqueue does what its namesake in os does."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ferrule.ioqueue import IOQueue, OpenDirectory, Request

IN_RING = ("open", "close", "stat", "read", "write", "unlink", "mkdir", "rename", "link",
           "symlink", "fsync", "fadvise", "nop")


@pytest.fixture(params=["default", "everything in the ring", "no ring"])
def queue(request: pytest.FixtureRequest) -> Iterator[IOQueue]:
    if request.param == "default":
        made = IOQueue()
    elif request.param == "no ring":
        made = IOQueue(use_ring=False)
    else:
        made = IOQueue(in_ring=IN_RING)
    with made:
        yield made


def answer(queue: IOQueue, request: Request) -> Any:
    assert queue.pop(timeout=10) is request
    return request.result()


@pytest.fixture
def dir_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


# ---- whole files ----


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 100_000, 3_000_000])
def test_a_whole_file_is_written_and_read(queue: IOQueue, tmp_path: Path, size: int) -> None:
    path, data = tmp_path / "file", os.urandom(size)
    assert answer(queue, queue.write_file(path, data)) == size
    assert path.read_bytes() == data
    assert answer(queue, queue.read_file(path)) == data


def test_a_file_without_a_size_is_read_to_its_end(queue: IOQueue) -> None:
    assert b"MemTotal" in answer(queue, queue.read_file("/proc/meminfo"))
    assert len(answer(queue, queue.read_file("/proc/self/maps"))) > 8192


def test_a_file_with_more_than_max_bytes_is_an_error(queue: IOQueue, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (5, 20_000):
        path.write_bytes(b"x" * size)
        assert len(answer(queue, queue.read_file(path, max_bytes=size))) == size
        with pytest.raises(OSError, match="too large") as info:
            answer(queue, queue.read_file(path, max_bytes=size - 1))
        assert info.value.errno == errno.EFBIG


def test_writing_a_file_replaces_what_was_there(queue: IOQueue, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something longer")
    answer(queue, queue.write_file(path, b"short", mode=0o600))
    assert path.read_bytes() == b"short"


def test_a_new_file_has_the_mode_asked_for_and_flags_count(queue: IOQueue, dir_fd: int) -> None:
    flags = os.O_CREAT | os.O_EXCL
    answer(queue, queue.write_file("file", b"1", flags=flags, mode=0o640, dir_fd=dir_fd))
    assert os.stat("file", dir_fd=dir_fd).st_mode & 0o777 == 0o640
    with pytest.raises(FileExistsError):
        answer(queue, queue.write_file("file", b"2", flags=flags, dir_fd=dir_fd))


def test_a_buffer_in_flight_cannot_be_resized(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with IOQueue(threads=1, use_ring=False) as queue:
        queue.open(tmp_path / "fifo")  # holds the only worker
        data = bytearray(b"data")
        request = queue.write_file(tmp_path / "file", data)
        with pytest.raises(BufferError):
            data.append(0)
        writer = os.open(tmp_path / "fifo", os.O_RDWR)
        for done in queue.drain(timeout=10):
            if done.operation == "open":
                os.close(done.result())
        os.close(writer)
        assert request.done
        data.append(0)


@pytest.mark.parametrize("what", ["read", "write"])
def test_a_fifo_without_a_peer_never_holds_up_a_whole_file(
    queue: IOQueue, tmp_path: Path, what: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    if what == "read":
        assert answer(queue, queue.read_file(fifo)) == b""
    else:
        with pytest.raises(OSError, match="No such device") as info:
            answer(queue, queue.write_file(fifo, b"data"))
        assert info.value.errno == errno.ENXIO


def test_a_directory_is_no_file(queue: IOQueue, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        answer(queue, queue.read_file(tmp_path))


# ---- transfers ----


def test_reads_and_writes_at_offsets(queue: IOQueue, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file:
        assert answer(queue, queue.write(file, b"0123456789", 0)) == 10
        assert answer(queue, queue.write(file, memoryview(b"ab"), 4)) == 2
        assert answer(queue, queue.read(file, 4, 3)) == b"3ab6"
        assert answer(queue, queue.read(file, 100, 8)) == b"89"
        assert answer(queue, queue.read(file, 5, 10)) == b""
        assert answer(queue, queue.read(file, 0, 0)) == b""


def test_reads_and_writes_where_the_file_is(queue: IOQueue) -> None:
    reader, writer = os.pipe()
    try:
        assert answer(queue, queue.write(writer, b"hello")) == 5
        assert answer(queue, queue.read(reader, 100)) == b"hello"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_read_of_an_empty_pipe_waits_and_holds_up_nobody() -> None:
    reader, writer = os.pipe()
    with IOQueue(threads=1) as queue:
        try:
            waiting = queue.read(reader, 10)
            queue.flush()
            assert queue.pop(block=False) is None
            answer(queue, queue.stat("/"))  # by the same worker
            os.write(writer, b"come")
            assert answer(queue, waiting) == b"come"
        finally:
            os.close(reader)
            os.close(writer)


@pytest.mark.parametrize("data_only", [True, False])
def test_fsync_and_fadvise(queue: IOQueue, tmp_path: Path, data_only: bool) -> None:
    with open(tmp_path / "file", "wb", buffering=0) as file:
        file.write(b"data")
        assert answer(queue, queue.fsync(file, data_only=data_only)) is None
        advice = os.POSIX_FADV_DONTNEED
        assert answer(queue, queue.fadvise(file, 0, 0, advice)) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        answer(queue, queue.fsync(987_654))


# ---- names ----


def test_directories_are_made_and_removed(queue: IOQueue, dir_fd: int) -> None:
    answer(queue, queue.mkdir("sub", 0o700, dir_fd=dir_fd))
    assert stat.S_IMODE(os.stat("sub", dir_fd=dir_fd).st_mode) == 0o700
    with pytest.raises(FileExistsError):
        answer(queue, queue.mkdir("sub", dir_fd=dir_fd))
    answer(queue, queue.rmdir("sub", dir_fd=dir_fd))
    with pytest.raises(FileNotFoundError):
        answer(queue, queue.rmdir("sub", dir_fd=dir_fd))


def test_names_are_given_changed_and_removed(queue: IOQueue, dir_fd: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    answer(queue, queue.rename("a", "b", src_dir_fd=dir_fd, dst_dir_fd=dir_fd))
    answer(queue, queue.link("b", "c", src_dir_fd=dir_fd, dst_dir_fd=dir_fd))
    answer(queue, queue.symlink("c", "d", dir_fd=dir_fd))
    assert answer(queue, queue.readlink("d", dir_fd=dir_fd)) == "c"
    assert answer(queue, queue.readlink(b"d", dir_fd=dir_fd)) == b"c"
    assert (tmp_path / "d").read_bytes() == b"content"
    answer(queue, queue.unlink("b", dir_fd=dir_fd))
    assert sorted(os.listdir(tmp_path)) == ["c", "d"]


def test_an_error_of_two_paths_names_both(queue: IOQueue) -> None:
    with pytest.raises(FileNotFoundError) as info:
        answer(queue, queue.rename("/no/such", "/no/other"))
    assert (info.value.filename, info.value.filename2) == ("/no/such", "/no/other")


def test_a_hard_link_to_a_link_follows_it_or_not(queue: IOQueue, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "soft").symlink_to("file")
    answer(queue, queue.link(tmp_path / "soft", tmp_path / "followed"))
    answer(queue, queue.link(tmp_path / "soft", tmp_path / "itself", follow_symlinks=False))
    assert not (tmp_path / "followed").is_symlink()
    assert (tmp_path / "itself").is_symlink()


def test_extended_attributes(queue: IOQueue, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    try:
        os.setxattr(path, "user.probe", b"")
    except OSError as exc:
        pytest.skip(f"cannot here: {exc}")
    os.removexattr(path, "user.probe")
    answer(queue, queue.setxattr(path, "user.colour", b"blue"))
    assert os.getxattr(path, "user.colour") == b"blue"
    assert answer(queue, queue.getxattr(path, "user.colour")) == b"blue"
    fd = os.open(path, os.O_RDONLY)
    try:
        assert answer(queue, queue.getxattr(fd, b"user.colour")) == b"blue"
        assert answer(queue, queue.listxattr(fd)) == os.listxattr(path)
    finally:
        os.close(fd)
    with pytest.raises(FileExistsError):
        answer(queue, queue.setxattr(path, "user.colour", b"red", os.XATTR_CREATE))
    answer(queue, queue.removexattr(path, "user.colour"))
    assert answer(queue, queue.listxattr(path)) == []


# ---- directories ----


def read_all(queue: IOQueue, directory: OpenDirectory) -> list[str]:
    names = [entry.name for entry in directory.entries]
    while not directory.complete:
        more = answer(queue, queue.readdir(directory))
        if not more:
            break
        names += [entry.name for entry in more]
    return names


@pytest.mark.parametrize("count", [0, 3, 3000])
def test_a_directory_is_opened_with_its_first_entries(
    queue: IOQueue, tmp_path: Path, count: int
) -> None:
    for number in range(count):
        (tmp_path / f"name {number}").touch()
    directory = answer(queue, queue.opendir(tmp_path))
    assert directory.complete == (count < 1000)
    assert sorted(read_all(queue, directory)) == sorted(os.listdir(tmp_path))
    assert answer(queue, queue.closedir(directory)) is None
    with pytest.raises(ValueError, match="closed"):
        queue.readdir(directory)


def test_entries_have_type_and_inode(queue: IOQueue, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with answer(queue, queue.opendir(os.fsencode(tmp_path))) as directory:
        (entry,) = directory.entries
        assert entry.name == b"file"
        assert entry.inode == os.stat(tmp_path / "file").st_ino
        assert entry.type in (0, 8)
        assert os.fstat(directory.fileno()).st_ino == os.stat(tmp_path).st_ino


def test_an_open_directory_serves_as_dir_fd(queue: IOQueue, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    with answer(queue, queue.opendir(tmp_path)) as directory:
        assert answer(queue, queue.read_file("file", dir_fd=directory)) == b"123"


def test_a_file_is_no_directory(queue: IOQueue, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        answer(queue, queue.opendir(tmp_path / "file"))


def test_a_forgotten_directory_is_closed_with_a_warning(queue: IOQueue, tmp_path: Path) -> None:
    directory = answer(queue, queue.opendir(tmp_path))
    fd = directory.fileno()
    with pytest.warns(ResourceWarning, match="unclosed directory"):
        del directory
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# ---- many at once ----


def test_many_stats_come_in_the_order_of_their_paths(queue: IOQueue, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(1500)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * (number % 7))
    found = queue.stat_many(paths)
    assert [one.st_size for one in found] == [number % 7 for number in range(1500)]
    assert [one.st_ino for one in found] == [os.stat(path).st_ino for path in paths]
    assert queue.stat_many([]) == []


def test_many_files_are_written_read_and_removed(queue: IOQueue, dir_fd: int) -> None:
    contents = {f"file {number}": os.urandom(number * 10) for number in range(700)}
    sizes = queue.write_files(contents.items(), dir_fd=dir_fd)
    assert sizes == [len(data) for data in contents.values()]
    assert queue.read_files(contents, dir_fd=dir_fd) == list(contents.values())
    assert queue.unlink_many(contents, dir_fd=dir_fd) == [None] * 700
    assert os.listdir(dir_fd) == []


def test_files_can_be_read_one_by_one_as_they_come(queue: IOQueue, tmp_path: Path) -> None:
    contents = {str(tmp_path / str(number)): b"%d" % number for number in range(1000)}
    queue.write_files(contents.items())
    assert dict(queue.iter_files(contents)) == contents
    for _path, data in queue.iter_files(contents):
        assert data
        break  # the rest is dropped
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        list(queue.iter_files([missing]))
    ((path, error),) = queue.iter_files([missing], return_errors=True)
    assert path == missing
    assert isinstance(error, FileNotFoundError)


def test_the_first_failure_of_many_is_raised(queue: IOQueue, tmp_path: Path) -> None:
    paths = [*["/"] * 500, str(tmp_path / "missing"), *["/"] * 500]
    with pytest.raises(FileNotFoundError) as info:
        queue.stat_many(paths)
    assert info.value.filename == str(tmp_path / "missing")
    assert len(queue.stat_many(["/"] * 10)) == 10  # and it goes on


def test_failures_of_many_are_returned_in_their_places(queue: IOQueue, tmp_path: Path) -> None:
    found = queue.stat_many(["/", tmp_path / "missing", "/"], return_errors=True)
    assert isinstance(found[1], FileNotFoundError)
    assert found[0].st_ino == found[2].st_ino


def test_many_leave_other_answers_alone(queue: IOQueue) -> None:
    request = queue.nop()
    assert len(queue.stat_many(["/"] * 1000)) == 1000
    assert queue.pop() is request


@pytest.mark.parametrize("item", [None, 1.5, "a\0b"])
def test_a_bad_path_among_many_is_refused_and_nothing_hangs(queue: IOQueue, item: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        queue.stat_many([*["/"] * 300, item])
    assert len(queue.stat_many(["/"] * 300)) == 300


# ---- no descriptors ----


def test_without_descriptors_an_open_says_so_and_others_go_on(
    queue: IOQueue, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"1")
    answer(queue, queue.read_file(tmp_path / "file"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        for submit in (queue.open, queue.opendir, queue.read_file):
            with pytest.raises(OSError, match="Too many open files") as info:
                answer(queue, submit("/etc/passwd"))
            assert info.value.errno == errno.EMFILE
        assert answer(queue, queue.stat("/")).st_ino
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert answer(queue, queue.read_file(tmp_path / "file")) == b"1"


# ---- bad input ----


@pytest.mark.parametrize(
    ("method", "args", "kind"),
    [
        ("stat", (None,), TypeError),
        ("stat", ("a\0b",), ValueError),
        ("stat", (-1,), ValueError),
        ("open", (3,), TypeError),
        ("close_fd", (-1,), ValueError),
        ("close_fd", ("file",), AttributeError),
        ("read", (0, -1), ValueError),
        ("read", (0, 1, -1), ValueError),
        ("write", (0, "text"), TypeError),
        ("write_file", ("/tmp/x", "text"), TypeError),
        ("opendir", ("a\0b",), ValueError),
        ("closedir", (3,), TypeError),
        ("rename", ("a", None), TypeError),
        ("getxattr", ("/", None), TypeError),
    ],
)
def test_bad_arguments_are_refused_and_take_no_room(
    queue: IOQueue, method: str, args: tuple[Any, ...], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        getattr(queue, method)(*args)
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 0}, "depth must be from 1"),
        ({"depth": 1 << 30}, "depth must be from 1"),
        ({"threads": 0}, "threads must be from 1"),
        ({"kernel_threads": 0}, "kernel_threads must be from 1"),
        ({"in_ring": ["telephone"]}, "in_ring may have"),
    ],
)
def test_a_queue_says_which_options_it_takes(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IOQueue(**options)
