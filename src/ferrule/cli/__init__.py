"""The command ``ferrule``, also ``python -m ferrule``.

One module per sub-command; each has ``add_parser`` and ``run(args) -> exit status``:

  doctor.py   what this machine offers and which engine is chosen   (uses facts.py)
  serve.py    a static file server                                  (http_server.py does the work)
  find.py     find's expressions on the walker                      (find_*.py)
  demo.py     the main job on real input: serve and fetch a folder

Below serve: http_server (connections, timeouts) → http_request (bytes → requests), conditions
(preconditions, ranges), static_files (cache) → file_tree (opening safely), listing, media_types.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (default: the program's arguments); return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["find"]:  # it has no options as argparse knows them, nor time to import much
        from ferrule.cli import find

        return find.main(words[1:])
    return _run_command(words)


def _run_command(words: list[str]) -> int:
    import argparse

    import ferrule
    from ferrule.cli import demo, doctor, find, serve
    from ferrule.cli.extras import MissingExtra

    parser = argparse.ArgumentParser(
        prog="ferrule", description="Virtual threads for Python on io_uring."
    )
    parser.add_argument("--version", action="version", version=f"ferrule {ferrule.__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in (doctor, serve, find, demo):
        module.add_parser(commands)
    args = parser.parse_args(words)
    if args.run is None:
        parser.print_help(sys.stderr)
        return 2
    problem = None if args.run is doctor.run else _environment_problem()
    if problem is not None:
        print(f"ferrule: {problem}", file=sys.stderr)
        return 2
    try:
        status: int = args.run(args)
        return status
    except MissingExtra as exc:
        print(f"ferrule: {exc}", file=sys.stderr)
        return 2
    except ferrule.BackendUnavailable as exc:
        print(f"ferrule: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _environment_problem() -> str | None:
    """What ferrule.run() would call a programming mistake, for which no program is to blame."""
    from ferrule.runtime import BACKENDS

    backend = os.environ.get("FERRULE_BACKEND") or "auto"
    if backend not in ("auto", *BACKENDS):
        return f"FERRULE_BACKEND must be auto or one of {', '.join(BACKENDS)}; not {backend!r}"
    return None
