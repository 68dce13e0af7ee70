"""Files with the same contents, found by an I/O queue: duplicate_files.py [FILE...].

Only files of equal size are read.  Without arguments it makes some files.
"""

import collections
import hashlib
import sys
import tempfile
from pathlib import Path

from ferrule.ioqueue import IOQueue


def main(paths):
    if paths:
        for same in duplicates(paths):
            print(*same)
        return
    with tempfile.TemporaryDirectory() as folder, IOQueue() as queue:
        files = {str(Path(folder, str(n))): b"%d" % (n // 2) * 1000 for n in range(100)}
        queue.write_files(files.items())
        print(len(duplicates(list(files))), "pairs")


def duplicates(paths):
    """Lists of paths whose files are equal."""
    with IOQueue() as queue:
        sizes = [found.st_size for found in queue.stat_many(paths)]
        count = collections.Counter(sizes)
        maybe = [path for path, size in zip(paths, sizes, strict=True) if count[size] > 1]
        groups = collections.defaultdict(list)
        for path, data in queue.iter_files(maybe):
            groups[hashlib.sha256(data).digest()].append(path)
    return [sorted(group) for group in groups.values() if len(group) > 1]


if __name__ == "__main__":
    main(sys.argv[1:])
