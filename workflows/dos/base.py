"""DosMaker: what every engine has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

from jobflow import Flow, Job, Maker
from pymatgen.core import Structure

from workflows.dos.cost import FIRST_ATOM
from workflows.dos.document import UNKNOWN, SourceFacts
from workflows.dos.errors import DosError


@dataclass
class DosMaker(Maker, ABC):
    """Make the flow from a structure to a :class:`~workflows.dos.document.DosDocument`.

    An engine is a subclass with `engine`, `title`, `recipe`, `missing`, `installed`, `check` and
    `jobs`, in a module that can be imported without the engine itself, and a line in
    :data:`workflows.dos.engines.ENGINES`. Flows are made and submitted on machines without it.

    Parameters
    ----------
    name : str
        Of the flow, and of its last job.
    """

    engine: ClassVar[str]
    """Its name on the command line and in documents, and the category of its jobs."""
    title: ClassVar[str]
    """Its name in words."""

    name: str = "DOS"

    @property
    @abstractmethod
    def recipe(self) -> str:
        """Recipe of the documents, which stands for all settings; known before anything runs.

        Raises
        ------
        DosError
            If an option is wrong.
        """

    def recipe_for(self, elements: Iterable[str]) -> str:
        """Recipe of the document of a material with these elements.

        It is `recipe`, or begins with it: an engine that computes other elements in the place of
        some names them (:func:`workflows.dos.document.recipe_with_stand_ins`).
        """
        return self.recipe

    @staticmethod
    @abstractmethod
    def missing() -> list[str]:
        """One line for each thing that this machine lacks to run the engine; empty if it can."""

    @staticmethod
    @abstractmethod
    def installed() -> str:
        """What this machine has of the engine, in words, if nothing is missing."""

    @abstractmethod
    def check(self, structure: Structure) -> None:
        """Refuse what cannot be calculated, before anything is submitted.

        Raises
        ------
        DosError
            See :func:`check_structure`, which does most of it.
        """

    @abstractmethod
    def jobs(
        self, structure: Structure, material_id: str | None, source: SourceFacts
    ) -> list[Job | Flow]:
        """Jobs of the flow; the output of the last one is the document.

        Parameters
        ----------
        structure : Structure
            Which :meth:`check` let pass.
        material_id : str or None
        source : SourceFacts
            See :meth:`make`.
        """

    @property
    def first_atom_time(self) -> float:
        """Time in s that a cell of one atom takes, until finished calculations tell it."""
        return FIRST_ATOM

    def make(
        self,
        structure: Structure,
        material_id: str | None = None,
        source: SourceFacts = UNKNOWN,
    ) -> Flow:
        """Flow from a structure to a :class:`~workflows.dos.document.DosDocument`.

        Parameters
        ----------
        structure : Structure
            Ordered.
        material_id : str, optional
            Goes into the document.
        source : SourceFacts, optional
            What the engine may choose its k-mesh by, and whether it relaxes the structure first.

        Raises
        ------
        DosError
            If the engine cannot compute the structure, or an option is wrong.
        """
        self.check(structure)
        jobs = self.jobs(structure, material_id, source)
        jobs[-1].name = self.name
        return Flow(jobs, output=jobs[-1].output, name=self.name)


def check_structure(structure: Structure, available: Collection[str], lacking: str) -> None:
    """Refuse partial occupancies, and elements that an engine has no data for.

    Parameters
    ----------
    structure : Structure
    available : collection of str
        Symbols of the elements that there are data for.
    lacking : str
        What to say of others, with ``{}`` for their symbols.

    Raises
    ------
    DosError
        If a site is partially occupied, or an element is not available.
    """
    if not structure.is_ordered:
        raise DosError("structure has partial occupancies; order it first")
    others = sorted({element.symbol for element in structure.elements}.difference(available))
    if others:
        raise DosError(lacking.format(", ".join(others)))
