"""SHA-256 of many files, 32 reads in flight from one fiber: checksums.py [FILE...].

Without arguments it makes some files, and compares with what reading one after another gives.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import ferrule
from ferrule import fs

DEPTH = 32
SIZE = 256 * 1024


def main(paths):
    if paths:
        for path, digest in checksums(paths):
            print(digest, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder))
        found = dict(checksums(paths))
        right = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        print(len(found), "files", "identical" if found == right else "different")


def checksums(paths):
    """(path, digest) of every file, in the order of their ends."""
    waiting = iter(paths)
    reads = {}
    with ferrule.Batch() as batch:
        for path in waiting:
            begin(batch, reads, path)
            if len(reads) == DEPTH:
                break
        for completion in batch:
            path, file, offset, digest = reads.pop(completion.index)
            data = completion.result()
            digest.update(data)
            if len(data) == SIZE:
                offset += SIZE
                reads[batch.add(file.pread, SIZE, offset)] = path, file, offset, digest
                continue
            file.close()
            yield path, digest.hexdigest()
            for following in waiting:
                begin(batch, reads, following)
                break


def begin(batch, reads, path):
    file = fs.File.open(path, os.O_RDONLY)
    reads[batch.add(file.pread, SIZE, 0)] = path, file, 0, hashlib.sha256()


def make_files(folder):
    paths = [folder / f"file{number:03}" for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(os.urandom(number * 20_000))
    return paths


ferrule.run(main, sys.argv[1:])
