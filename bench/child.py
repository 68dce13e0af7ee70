"""Runs one peer of one benchmark: `python -m bench.child NAME PEER OPTIONS-AS-JSON`."""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    """Call the peer's function; print the sample it returns (a server never returns)."""
    name, peer, options = sys.argv[1:]
    benchmark = importlib.import_module(f"bench.{name}").BENCHMARK
    sample = benchmark.peers[peer](json.loads(options))
    print(json.dumps(sample))


if __name__ == "__main__":
    main()
