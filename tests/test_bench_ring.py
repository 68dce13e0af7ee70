"""The ring's benchmarks read the right blocks, count right, and say what is left out."""

from __future__ import annotations

import json
import os
import shutil
from array import array
from pathlib import Path
from typing import Any

import pytest

from bench import harness, ring_file, ring_nops, ring_random, ring_warm
from bench.__main__ import GROUPS, NAMES
from bench.harness import Case, Settings, Unavailable
from bench.ring_file import BLOCK

BLOCKS = 128
SHORT = 0.02  # seconds


def run(peers: harness.Peers, peer: str, **options: Any) -> harness.Sample:
    return peers[peer]({"seconds": SHORT, **options})


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    path = tmp_path / "blocks.bin"
    ring_file.write_file(path, 1 << 20)
    return path


def test_ring_is_short_for_every_ring_benchmark() -> None:
    assert GROUPS["ring"] == ("ring_nops", "ring_random", "ring_warm")
    assert set(GROUPS["ring"]) <= set(NAMES)


def test_a_block_begins_with_its_own_offset(blocks: Path) -> None:
    data = blocks.read_bytes()
    offsets = [5 * BLOCK, 0, 255 * BLOCK]
    memory = b"".join(data[offset : offset + BLOCK] for offset in offsets)
    ring_file.check_blocks(memory, offsets)
    with pytest.raises(AssertionError, match="slot 1 has the block of 0, not of 4096"):
        ring_file.check_blocks(memory, [5 * BLOCK, BLOCK, 255 * BLOCK])


def test_a_file_that_is_there_is_not_written_again(blocks: Path) -> None:
    before = blocks.stat().st_mtime_ns
    ring_file.write_file(blocks, 1 << 20)
    assert blocks.stat().st_mtime_ns == before


def test_every_block_is_read_once_before_one_comes_again() -> None:
    offsets = ring_file.shuffled_offsets(BLOCKS * BLOCK)
    assert isinstance(offsets, array)
    assert sorted(offsets) == list(range(0, BLOCKS * BLOCK, BLOCK))


@pytest.mark.parametrize("batch", ring_nops.BATCHES)
@pytest.mark.parametrize("peer", [name for name in ring_nops.PEERS if name.startswith("Ferrule")])
def test_nops_are_counted(peer: str, batch: int) -> None:
    assert run(ring_nops.PEERS, peer, batch=batch)["value"] > 0


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_c_program_builds_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_nops, "SECONDS", SHORT)
    harness.SCRATCH.mkdir(parents=True, exist_ok=True)
    case = Case("x", {"batch": 16})
    sample = ring_nops.measure(ring_nops.BENCHMARK, case, ring_nops.C, Settings(1))
    assert sample["value"] > 0


def test_a_completion_that_is_missing_spoils_a_sample() -> None:
    with pytest.raises(AssertionError, match="number 14"):
        ring_nops.check_last(14, 16)


@pytest.mark.parametrize("peer", ring_warm.PEERS)
def test_warm_reads_bring_the_right_blocks(
    peer: str, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_warm, "path_of", lambda mib: blocks)
    assert run(ring_warm.PEERS, peer, mib=1)["value"] > 0


@pytest.mark.parametrize("peer", ["Ferrule", ring_random.FAST])
def test_random_reads_bring_the_right_blocks(
    peer: str, blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_random, "FILE", blocks)
    monkeypatch.setattr(ring_random, "SIZE", 1 << 20)  # small, so that the offsets start over
    try:
        os.close(os.open(blocks, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no O_DIRECT here: {error}")
    sample = run(ring_random.PEERS, peer)
    assert sample["value"] > 0
    assert 0 < sample["p50_us"] <= sample["p99_us"]


def fio_report(**changes: Any) -> str:
    reads = {
        "iops": 1000.0,
        "total_ios": 2000,
        "runtime": 2000,
        "lat_ns": {"percentile": {"50.000000": 300_000, "99.000000": 900_000}},
    }
    job = {"error": 0, "usr_cpu": 10.0, "sys_cpu": 30.0, "read": reads | changes.pop("read", {})}
    return json.dumps({"jobs": [job | changes]})


def test_fios_report_is_read() -> None:
    assert ring_random.fio_sample(fio_report()) == {
        "value": 1000.0,
        "cpu_us": pytest.approx(400.0),  # 40 % of 2 s, for 2,000 reads
        "p50_us": 300.0,
        "p99_us": 900.0,
    }


@pytest.mark.parametrize("changes", [{"error": 5}, {"read": {"total_ios": 0}}])
def test_a_fio_that_failed_has_no_figure(changes: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="fio"):
        ring_random.fio_sample(fio_report(**changes))


def test_without_fio_its_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_random.shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="fio is not installed"):
        ring_random.measure_fio(1)
