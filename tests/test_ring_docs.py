"""The ring's pages describe the functions there are, and name tests that exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_pages_are_what_the_docstrings_say():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/ring_pages.py")], capture_output=True, text=True,
        check=False)
    assert done.returncode == 0, done.stderr


def test_behaviours_are_tested_where_their_page_says():
    source = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_ring*.py"))
    tests = set(re.findall(r"^def (test_\w+)", source, re.MULTILINE))
    page = (ROOT / "docs/ring/behaviours.md").read_text()
    named = re.findall(r"`(test_\w+)`", page)
    assert len(re.findall(r"^\| [\w-]+ \|", page, re.MULTILINE)) == 49  # and the title
    assert set(named) <= tests
    for name in re.findall(r"`(test_\w+)`\*", page):
        assert re.search(rf"@each_setup\n(@[^\n]*\n)*(.*\n)*?def {name}\(", source), name
