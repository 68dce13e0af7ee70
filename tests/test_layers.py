"""A compiled module imports only what stands below it, and never the Python layer."""

import pathlib
import re

import pytest

CORE = pathlib.Path(__file__).parent.parent / "src" / "ferrule" / "_core"

BUILD_ORDER = re.findall(
    r"'(\w+)'",
    re.search(r"core_modules = \[(.*?)\]", (CORE / "meson.build").read_text(), re.DOTALL)[1],
)
IMPORTS = re.compile(r"^\s*(?:from|import|cimport)\s+(ferrule(?:\.\w+)*)", re.MULTILINE)


def imported_by(module: str) -> set[str]:
    """The dotted names under ferrule that a compiled module's sources import."""
    sources = [path for path in CORE.rglob(f"{module}*.p[yx][xdi]") if path.is_file()]
    own = [path for path in sources if path.stem == module or path.suffix == ".pxi"]
    return {name for path in own for name in IMPORTS.findall(path.read_text())}


def test_every_compiled_module_is_in_the_build_order() -> None:
    assert sorted(BUILD_ORDER) == sorted(path.stem for path in CORE.glob("*.pyx"))


@pytest.mark.parametrize("module", BUILD_ORDER)
def test_a_module_imports_only_what_is_built_before_it(module: str) -> None:
    below = {*BUILD_ORDER[: BUILD_ORDER.index(module) + 1], "dir_walk", "operation"}
    for name in imported_by(module):
        assert name.startswith("ferrule._core."), f"{module} imports {name}, which is above it"
        assert name.split(".")[2] in below, f"{module} imports {name}, which is built later"
