"""The packages import each other one way, and nothing imports in a circle.

An import inside a function counts, one under `if TYPE_CHECKING` does not.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

# later ones know earlier ones
LAYERS = ("models", "db", "screening", "workflows", "screening.dashboard", "screening.cli")
MODELS_KNOWN_TO_DB = ("models.errors", "models.spectra.", "models.writing")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    packages = {name.partition(".")[0] for name in LAYERS}
    return grimp.build_graph(*packages, exclude_type_checking_imports=True, cache_dir=None)


def imports(graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    return {
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }


def layer(module: str) -> int:
    """Of the layers that a module is in, the highest."""
    return max(i for i, name in enumerate(LAYERS) if f"{module}.".startswith(f"{name}."))


def circle(pairs: set[tuple[str, str]]) -> str | None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported in pairs:
        sorter.add(importer, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return None


def test_no_file_imports_itself_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circle(imports(graph)) is None


def test_no_room_imports_itself_in_a_circle(graph: grimp.ImportGraph) -> None:
    """In each package the files and subpackages, each of these taken as one, form no circle."""
    packages = sorted(module for module in graph.modules if graph.find_children(module))
    circles = {package: graph.nominate_cycle_breakers(package) for package in packages}
    assert len(packages) > 10
    assert {package: breakers for package, breakers in circles.items() if breakers} == {}


def test_imports_go_one_way_through_the_layers(graph: grimp.ImportGraph) -> None:
    upwards = {pair for pair in imports(graph) if layer(pair[0]) < layer(pair[1])}
    assert upwards == set()
    used = {imported for importer, imported in imports(graph) if importer.startswith("db.")}
    of_models = {name for name in used if name.startswith("models.")}
    assert {name for name in of_models if not name.startswith(MODELS_KNOWN_TO_DB)} == set()


def test_a_circle_is_found() -> None:
    assert circle({("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")}) is not None
    assert circle({("a", "b"), ("b", "c"), ("a", "c")}) is None
    assert layer("screening.cli.run") > layer("workflows.screening") > layer("screening.gap")
