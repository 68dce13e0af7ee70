"""Copy a folder, one fiber for each file: copy_files.py [SOURCE TARGET].

Without arguments it makes a folder to copy, and compares the copy with it.
"""

import sys
import tempfile
from pathlib import Path

import ferrule
from ferrule import fs


def main(arguments):
    if arguments:
        source, target = map(Path, arguments)
        print("{} files, {} bytes".format(*copy_tree(source, target)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        make_files(source)
        print("{} files, {} bytes".format(*copy_tree(source, target)))
        print("identical" if contents(source) == contents(target) else "different")


def copy_tree(source, target):
    """(files, bytes) that were copied; links are left out."""
    with ferrule.TaskGroup() as group:
        copies = list(start_copies(group, source, target))
    return len(copies), sum(copy.result() for copy in copies)


def start_copies(group, source, target):
    fs.makedirs(target, exist_ok=True)
    with fs.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from start_copies(group, source / entry.name, target / entry.name)
            elif entry.is_file(follow_symlinks=False):
                yield group.spawn(fs.copy_file, source / entry.name, target / entry.name)


def make_files(folder):
    for number in range(50):
        path = folder / f"part{number % 5}" / f"file{number}"
        fs.makedirs(path.parent, exist_ok=True)
        fs.write_bytes(path, b"%d\n" % number * 1000)


def contents(folder):
    """The files' bytes by path."""
    found = {}
    with fs.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                inner = contents(folder / entry.name)
                found |= {f"{entry.name}/{path}": data for path, data in inner.items()}
            else:
                found[entry.name] = fs.read_bytes(folder / entry.name)
    return found


ferrule.run(main, sys.argv[1:])
