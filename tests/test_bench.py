"""The benchmarks' own arithmetic: a wrong verdict there would be a lie in the docs."""

from __future__ import annotations

from typing import Any

import pytest

from bench import processors, report
from bench.harness import (
    Benchmark,
    Case,
    Row,
    Settings,
    Target,
    complaint,
    requirement,
    run_benchmark,
    verdict,
)
from bench.processors import TRIES, Processors

FIGURES = {"Ferrule": [10.0, 30.0, 20.0], "peer": [40.0, 20.0, 40.0]}


def benchmark(**changes: Any) -> Benchmark:
    """Make a benchmark whose samples are FIGURES; a peer without figures fails."""
    taken = {name: iter(figures) for name, figures in FIGURES.items()}

    def measure(which: Benchmark, case: Case, peer: str, settings: Settings) -> dict[str, float]:
        return {"value": next(taken[peer])}

    settings: dict[str, Any] = {
        "name": "fake",
        "title": "Fake",
        "measures": "Nothing.",
        "unit": "ns",
        "higher_is_better": False,
        "cases": [Case("case")],
        "peers": dict.fromkeys(FIGURES),
        "measure": measure,
    }
    return Benchmark(**(settings | changes))


def rows_of(which: Benchmark, rounds: int = 3) -> list[Row]:
    return run_benchmark(which, Settings(rounds), [])


def test_a_ratio_is_taken_of_medians_and_counts_less_time_as_better() -> None:
    found = verdict(benchmark(), Target("case", "peer", at_least=2.0), rows_of(benchmark()))
    assert found["reached"] == 40 / 20
    assert found["pass"] is True


def test_more_requests_count_as_better_where_the_benchmark_says_so() -> None:
    faster = benchmark(higher_is_better=True)
    found = verdict(faster, Target("case", "peer", at_least=1.0), rows_of(faster))
    assert found["reached"] == 20 / 40
    assert found["pass"] is False


@pytest.mark.parametrize(("limit", "passes"), [(0.5, True), (0.49, False)])
def test_an_upper_bound_is_a_multiple_of_the_peer(limit: float, passes: bool) -> None:
    target = Target("case", "peer", at_most=limit)
    assert verdict(benchmark(), target, rows_of(benchmark()))["pass"] is passes
    assert requirement(target) == f"≤ {limit} × peer"


def test_an_upper_bound_without_a_peer_is_absolute() -> None:
    found = verdict(benchmark(), Target("case", at_most=19.9), rows_of(benchmark()))
    assert found["reached"] == 20
    assert found["pass"] is False


def test_a_target_whose_peer_is_missing_is_neither_passed_nor_failed() -> None:
    found = verdict(benchmark(), Target("case", "nobody", at_least=1), rows_of(benchmark()))
    assert found["pass"] is None
    assert found["reached"] is None


def test_a_broken_peer_shows_its_error_and_leaves_the_others_alone() -> None:
    broken = benchmark(peers=dict.fromkeys([*FIGURES, "broken"]))
    rows = {row.peer: row for row in rows_of(broken)}
    assert rows["broken"].note() == "'broken'"
    assert len(rows["broken"].errors) == 2  # given up after the second
    assert rows["peer"].median() == 40


def test_a_peer_that_fails_once_says_how_often() -> None:
    rows = {row.peer: row for row in rows_of(benchmark(), rounds=4)}
    assert rows["peer"].median() == 40
    assert rows["peer"].note() == "1 of 4 failed: StopIteration"


def test_a_failed_preparation_becomes_the_rows_error() -> None:
    def prepare() -> None:
        raise OSError("disk full")

    assert {row.note() for row in rows_of(benchmark(prepare=prepare))} == {
        "could not prepare: disk full"
    }


def test_the_exception_is_found_in_a_childs_error_output() -> None:
    output = (
        "Traceback …\n  File x\nasyncio.CancelledError: a\nValueError: b\nException ignored in c"
    )
    assert complaint(output) == "ValueError: b"
    assert complaint("cannot bind\n\n") == "cannot bind"


def test_docs_are_replaced_between_their_markers_only() -> None:
    text = "a <!-- bench:x -->old<!-- /bench:x --> b"
    assert report.put_between_markers(text, "x", "new") == (
        "a <!-- bench:x -->\nnew\n<!-- /bench:x --> b"
    )
    with pytest.raises(ValueError, match="no place for y"):
        report.put_between_markers(text, "y", "new")


def test_the_docs_have_a_place_for_every_benchmark() -> None:
    from bench.__main__ import NAMES, load

    text = report.DOCS.read_text(encoding="utf-8")
    for name in NAMES:
        assert load(name).name == name
        text = report.put_between_markers(text, name, "")


@pytest.mark.parametrize(("others", "quick", "mark"), [
    (2.0, False, "pass |"),
    (30.0, False, "pass (busy machine) |"),
    (2.0, True, "pass (quick run) |"),
])  # fmt: skip
def test_a_verdict_of_a_doubtful_run_says_so(others: float, quick: bool, mark: str) -> None:
    which = benchmark(targets=[Target("case", "peer", at_least=2.0)])
    weather = {"others_percent": others, "stolen_percent": 0.0}
    found = report.document(which, rows_of(which), Settings(3, quick), weather)
    assert report.targets_table([found]).endswith(mark)
    assert report.conditions(found).startswith("**") is (mark != "pass |")


# ---- where the host puts the processors ----


class Moved(Processors):
    """Processors that are so far apart, one time after the other, and then as the last time."""

    def __init__(self, *apart_ns: float) -> None:
        super().__init__("", 0, 1)
        self.apart = list(apart_ns)

    def apart_ns(self) -> float:
        return self.apart.pop(0) if len(self.apart) > 1 else self.apart[0]


def take_from(processors: Processors) -> tuple[dict[str, Any], int]:
    """Return the sample that counted, and how many were taken."""
    taken: list[dict[str, Any]] = []

    def take() -> dict[str, Any]:
        taken.append({"value": len(taken)})
        return taken[-1]

    return processors.sample_together(take), len(taken)


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "PAUSE_S", 0)
    monkeypatch.setattr(processors, "SEARCH_S", 0.05)
    monkeypatch.setattr(processors, "WAIT_S", 0.05)


@pytest.mark.usefixtures("in_no_time")
def test_a_sample_waits_until_the_processors_are_together() -> None:
    assert take_from(Moved(340, 340, 52, 55)) == ({"value": 0, "apart_ns": 55}, 1)


@pytest.mark.usefixtures("in_no_time")
def test_a_sample_during_which_the_processors_were_moved_is_taken_again() -> None:
    assert take_from(Moved(52, 340, 340, 52, 55)) == ({"value": 1, "apart_ns": 55}, 2)


@pytest.mark.usefixtures("in_no_time")
def test_processors_that_do_not_stay_together_end_the_trying() -> None:
    sample, taken = take_from(Moved(52, 340))
    assert taken == TRIES
    assert sample["apart_ns"] == 340


@pytest.mark.usefixtures("in_no_time")
def test_processors_that_are_never_nearer_count_as_together() -> None:
    assert take_from(Moved(340, 355)) == ({"value": 0, "apart_ns": 355}, 1)


def test_a_benchmarks_conditions_tell_how_far_apart_its_processors_were() -> None:
    which = benchmark()
    rows = rows_of(which)
    for number, row in enumerate(rows):
        for sample in row.samples:
            sample["apart_ns"] = 50.0 + number
    found = report.document(
        which, rows, Settings(3), {"others_percent": 0.0, "stolen_percent": 0.0}
    )
    assert "took 50 to 51 ns (median 51)" in report.conditions(found)
    for row in rows:
        for sample in row.samples:
            del sample["apart_ns"]
    assert "ns (median" not in report.conditions(found)
