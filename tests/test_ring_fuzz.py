"""Rings under random sequences of everything, against a model (ring_model.py).

Processes of their own (ring_fuzzer.py) run episodes, each from its own seed: for 15 seconds those
that belong to the present state of the ring's sources, so that a run can be repeated and every
change is tried on new ones; for two minutes random ones with FERRULE_SOAK=long.
FERRULE_FUZZ_SEED=… repeats the episode of that seed instead.  The kernel's timing is its own, so a
rare failure may need a few repetitions.
"""

from __future__ import annotations

import errno
import json
import os
import random
import secrets
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ring_fuzzer import Fuzzer
from ring_model import RingModel
from ring_model_operations import Nop, Operation, Receive
from ring_model_things import Lent, Token, new_pipe

LONG = os.environ.get("FERRULE_SOAK") == "long"
SECONDS = 120 if LONG else 15
FUZZER = Path(__file__).with_name("ring_fuzzer.py")


def start(seed: int, path: Path, seconds: float, repeat: bool, **env: str) -> Any:
    arguments = [str(seed), str(seconds), str(path), "repeat" if repeat else ""]
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", str(FUZZER), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env},
    )


def outcome(process: Any, path: Path, seconds: float) -> Counter[str]:
    """What a fuzzing process did; if it failed, in whatever way, a test failure that tells all."""
    try:
        output = process.communicate(timeout=seconds + 90)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + "\nit hung"
    if process.returncode == 0:
        return Counter(json.loads(output.splitlines()[-1]))
    steps = path.read_text() if path.exists() else "nothing was run"
    seed = steps.partition("\n")[0].removeprefix("seed ")
    pytest.fail(
        f"repeat with FERRULE_FUZZ_SEED={seed}; the steps:\n{steps}\n"
        f"exit status {process.returncode}\n{output}",
        pytrace=False,
    )


def seed_of_sources() -> int:
    root = FUZZER.parent.parent
    core = root / "src" / "ferrule" / "_core"
    files = [*core.glob("ring.*"), *core.glob("ring/*"), *root.glob("tests/ring_*.py")]
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(files))) >> 2


def test_random_sequences_agree_with_the_model(tmp_path, capsys):
    given = os.environ.get("FERRULE_FUZZ_SEED")
    seed = int(given) if given else secrets.randbelow(1 << 30) if LONG else seed_of_sources()
    # Freed memory is overwritten in the second one, so that its use shows.
    kinds = {"plain": {}, "debug": {"PYTHONMALLOC": "debug"}}
    started = [
        (tmp_path / name, start(seed + (0 if given else place << 32), tmp_path / name, SECONDS,
                                bool(given), **env))
        for place, (name, env) in enumerate(kinds.items())
    ]
    try:
        done = sum((outcome(process, path, SECONDS) for path, process in started), Counter())
    finally:
        for _, process in started:
            process.kill()
            process.wait()
            process.stdout.close()
    kinds = {name: count for name, count in done.most_common() if name[0].isupper()}
    with capsys.disabled():
        print(f"\nfuzz seed {seed}: {done['episodes']} episodes, {kinds}")


# ---- what the fuzzer must notice --------------------------------------------------------------


@pytest.fixture
def fuzzer():
    fuzzer = Fuzzer(0, lambda line: None)
    fuzzer.calm = True
    fuzzer.models.append(RingModel(fuzzer, "ring", 8, {}))
    fuzzer.channels.append(new_pipe())
    yield fuzzer
    fuzzer.models[0].ring.close()
    fuzzer.channels[0].close()


class Forged:
    """A completion as it must not be."""

    def __init__(self, cqe: Any, **changes: Any) -> None:
        self.cqe, self.changes = cqe, changes

    def __getattr__(self, name: str) -> Any:
        return self.changes[name] if name in self.changes else getattr(self.cqe, name)


def prepared(model: RingModel, op: Operation) -> Token:
    token = Token(op)
    assert model.prepare(op, token)
    return token


def completed(model: RingModel, op: Operation) -> Any:
    prepared(model, op)
    model.submit()
    return model.ring.copy_cqe(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"res": 1}, "unexpected result"),
        ({"res": -errno.ECANCELED}, "nobody cancelled it"),
        ({"res": -errno.EINTR}, "nobody interrupted it"),
        ({"res": -errno.EIO}, "unexpected error EIO"),
        ({"more": True}, "more completions"),
        ({"user_data": "stranger"}, "nobody knows"),
    ],
)
def test_model_refuses_a_completion_that_cannot_be(fuzzer, changes, said):
    model = fuzzer.models[0]
    cqe = completed(model, Nop(model))
    with pytest.raises(AssertionError, match=said):
        model.take(Forged(cqe, **changes))
    model.take(cqe)
    model.check()


def test_model_refuses_a_second_completion(fuzzer):
    model = fuzzer.models[0]
    cqe = completed(model, Nop(model))
    model.take(cqe)
    with pytest.raises(AssertionError, match="completed before"):
        model.take(cqe)


def test_model_refuses_a_completion_of_what_was_not_submitted(fuzzer):
    model = fuzzer.models[0]
    cqe = completed(model, Nop(model))
    token = prepared(model, Nop(model))
    with pytest.raises(AssertionError, match="not submitted"):
        model.take(Forged(cqe, user_data=token))


def test_model_refuses_another_object_as_user_data(fuzzer):
    model = fuzzer.models[0]
    cqe = completed(model, op := Nop(model))
    with pytest.raises(AssertionError, match="another object"):
        model.take(Forged(cqe, user_data=Token(op)))


def test_model_refuses_bytes_that_were_not_written(fuzzer):
    model, stream = fuzzer.models[0], fuzzer.channels[0].directions[0]
    os.write(stream.writer.fileno(), b"*" * 7)
    stream.sent(b"", 7)
    cqe = completed(model, Receive(model, random.Random(1), stream))
    with pytest.raises(AssertionError, match="other bytes"):
        model.take(cqe)


def test_model_sees_a_buffer_that_is_not_given_back_and_one_that_is_too_early(fuzzer):
    lent = Lent(random.Random(0), 8)
    with pytest.raises(AssertionError, match="can be resized"):
        lent.check_lent()
    with memoryview(lent.memory), pytest.raises(AssertionError, match="still exported"):
        lent.check_back()


def test_model_counts_what_is_in_flight(fuzzer):
    model = fuzzer.models[0]
    prepared(model, Nop(model))
    model.check()
    model.ring.prep_nop()
    with pytest.raises(AssertionError, match="in_flight=2"):
        model.check()


def test_crash_of_a_fuzzing_process_is_told_with_its_seed(tmp_path):
    path = tmp_path / "steps"
    path.write_text("seed 7\n0 crash\n")
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", "import os; os.abort()"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    with pytest.raises(pytest.fail.Exception) as caught:
        outcome(process, path, 10)
    for part in ("FERRULE_FUZZ_SEED=7", "0 crash", "exit status -6", "Fatal Python error"):
        assert part in str(caught.value)
