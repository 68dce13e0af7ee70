"""Nothing outside the directory is opened, whatever links and races there are."""

import os
import stat
import subprocess
import sys
import time

import pytest

from ferrule.cli import file_tree
from ferrule.cli.file_tree import LeadsOutside, NotServed, open_beneath, open_root
from in_fiber import in_fiber


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    fd = open_root(root)
    yield root, fd
    os.close(fd)


def read(root_fd, path):
    file, status = open_beneath(root_fd, path.encode().split(b"/"))
    with file:
        assert stat.S_ISREG(status.st_mode)
        return file.read().decode()


@in_fiber
def test_a_file_is_opened(tree):
    assert read(tree[1], "a/file") == "inside"


@pytest.mark.parametrize("target", ["a/file", "./a//file", "a/b/../file", "a/b/../../a/file"])
@in_fiber
def test_a_link_that_stays_inside_is_followed(tree, target):
    os.symlink(target, tree[0] / "link")
    assert read(tree[1], "link") == "inside"


@in_fiber
def test_a_link_to_a_directory_is_followed_in_the_middle_of_a_path(tree):
    os.symlink("a", tree[0] / "link")
    assert read(tree[1], "link/file") == "inside"
    assert read(tree[1], "link/b/../file") == "inside"


@pytest.mark.parametrize(
    "target", ["../secret", "a/../../secret", "/etc/passwd", "..", "/", "a/b/../../../secret"]
)
@in_fiber
def test_a_link_that_leads_out_is_refused(tree, target):
    os.symlink(target, tree[0] / "link")
    with pytest.raises(LeadsOutside):
        open_beneath(tree[1], [b"link"])


@in_fiber
def test_even_an_absolute_link_into_the_directory_is_refused(tree):
    os.symlink(tree[0] / "a" / "file", tree[0] / "link")
    with pytest.raises(LeadsOutside):
        open_beneath(tree[1], [b"link"])


@in_fiber
def test_dot_dot_never_leaves_the_root(tree):
    with pytest.raises(LeadsOutside):
        open_beneath(tree[1], [b"..", b"secret"])
    with pytest.raises(LeadsOutside):
        open_beneath(tree[1], [b"a", b"..", b"..", b"secret"])


@in_fiber
def test_links_in_a_circle_end_with_an_error(tree):
    os.symlink("two", tree[0] / "one")
    os.symlink("one", tree[0] / "two")
    with pytest.raises(OSError, match="Too many levels"):
        open_beneath(tree[1], [b"one"])


@in_fiber
def test_a_file_is_no_directory(tree):
    for path in ([b"a", b"file", b"x"], [b"a", b"file", b""]):
        with pytest.raises(NotADirectoryError):
            open_beneath(tree[1], path)


@in_fiber
def test_a_fifo_is_refused_without_opening_it(tree):
    os.mkfifo(tree[0] / "fifo")
    with pytest.raises(NotServed):
        open_beneath(tree[1], [b"fifo"])
    # A writer that does not wait can tell that there is no reader.
    with pytest.raises(OSError):
        os.open(tree[0] / "fifo", os.O_WRONLY | os.O_NONBLOCK)


@in_fiber
def test_a_socket_is_refused(tree, monkeypatch):
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        monkeypatch.chdir(tree[0])  # a socket's path must be short
        sock.bind("sock")
        with pytest.raises(NotServed):
            open_beneath(tree[1], [b"sock"])


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device needs root")
@in_fiber
def test_a_device_is_refused(tree):
    try:
        os.mknod(tree[0] / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError as exc:
        pytest.skip(f"cannot make a device here: {exc}")
    with pytest.raises(NotServed):
        open_beneath(tree[1], [b"zero"])


@in_fiber
def test_the_root_stays_the_same_when_it_is_renamed(tree):
    os.rename(tree[0], tree[0].with_name("moved"))
    assert read(tree[1], "a/file") == "inside"


@in_fiber
def test_no_descriptor_is_left_behind(tree):
    os.symlink("../../secret", tree[0] / "a" / "out")
    os.mkfifo(tree[0] / "fifo")
    before = os.listdir("/proc/self/fd")
    for path in ("a/file", "a/b", "a/out", "fifo", "a/nothing", "a/file/x", "a/b/../../.."):
        try:
            open_beneath(tree[1], path.encode().split(b"/"))[0].close()
        except OSError:
            pass
    assert os.listdir("/proc/self/fd") == before


EXCHANGE = """
import os, sys
os.chdir(sys.argv[1])
while True:
    os.rename("a", "kept")
    os.symlink("../outside", "a")
    os.unlink("a")
    os.rename("kept", "a")
"""


@in_fiber
def test_a_directory_exchanged_for_a_link_during_the_walk_leads_nowhere_else(tree, tmp_path):
    """Another process exchanges a directory for a link out of the tree, over and over."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    root, root_fd = tree
    exchange = subprocess.Popen([sys.executable, "-c", EXCHANGE, root])
    seen = set()
    end = time.monotonic() + 20
    try:
        tries = 0
        while time.monotonic() < end and (tries < 3000 or seen != {"inside", "refused", "missing"}):
            tries += 1
            try:
                seen.add(read(root_fd, "a/file"))
            except LeadsOutside:
                seen.add("refused")
            except FileNotFoundError:
                seen.add("missing")
    finally:
        exchange.kill()
        exchange.wait()
    assert "outside" not in seen
    assert "inside" in seen
    assert len(seen) > 1, "the race never happened: the test shows nothing"


@in_fiber
def test_a_file_exchanged_for_a_fifo_between_look_and_open_is_not_served(tree, monkeypatch):
    root, root_fd = tree
    looks = []
    to = file_tree._Walk.to

    def look_and_exchange(self, names):
        to(self, names)
        if not looks:
            looks.append(names)
            os.unlink(root / "a" / "file")
            os.mkfifo(root / "a" / "file")

    monkeypatch.setattr(file_tree._Walk, "to", look_and_exchange)
    with pytest.raises(NotServed):
        open_beneath(root_fd, [b"a", b"file"])
    assert looks
