"""An engine as anyone may add one: a maker in a module of its own, and a line in ENGINES."""

from __future__ import annotations

from dataclasses import dataclass

from jobflow import Flow, Job, job
from pymatgen.core import Structure

from tests.workflows.analytic_dos import free_electrons
from workflows.dos.base import DosMaker, check_structure
from workflows.dos.document import DosDocument, SourceFacts, recipe_id

LINE = {"toy": "tests.workflows.dos.toy_engine:ToyDosMaker"}


@dataclass
class ToyDosMaker(DosMaker):
    """Free electrons, for aluminium only."""

    engine = "toy"
    title = "Toy"

    name: str = "toy DOS"
    n_electrons: float = 8.0

    @property
    def recipe(self) -> str:
        return recipe_id("toy", {"n_electrons": self.n_electrons})

    @property
    def first_atom_time(self) -> float:
        return 3600.0

    @staticmethod
    def missing() -> list[str]:
        return []

    @staticmethod
    def installed() -> str:
        return "a formula"

    def check(self, structure: Structure) -> None:
        check_structure(structure, {"Al"}, "the toy has no {}")

    def jobs(
        self, structure: Structure, material_id: str | None, source: SourceFacts
    ) -> list[Job | Flow]:
        return [toy_dos(structure, self.recipe, material_id)]


@job
def toy_dos(structure: Structure, recipe: str, material_id: str | None) -> DosDocument:
    return free_electrons(structure, engine="toy", recipe=recipe, material_id=material_id)
