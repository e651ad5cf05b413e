"""What all engines have in common, on those that ship and on one that a test adds."""

import inspect
import json
from importlib import import_module

import pytest
from jobflow.managers.fireworks import flow_to_workflow
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from tests.workflows.dos.toy_engine import LINE
from tests.workflows.screened_run import crystal
from workflows.dos.base import DosMaker
from workflows.dos.document import DosError
from workflows.dos.engines import ENGINES, dos_maker, engine_class


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(ENGINES, *next(iter(LINE.items())))


@pytest.fixture(params=[*ENGINES, "toy"])
def engine(request, toy):
    return request.param


def test_an_engine_is_a_maker_by_its_own_name(engine):
    maker = dos_maker(engine)
    assert isinstance(maker, DosMaker)
    assert maker.engine == engine
    assert maker.recipe.startswith(engine)
    assert engine_class(engine).title.lower() == engine
    assert all("\n" not in line for line in maker.missing())
    assert maker.first_atom_time > 0


def test_a_flow_ends_with_the_document_and_survives_json(engine):
    flow = dos_maker(engine).make(crystal(0), material_id="m")
    *_, last = flow.jobs
    assert last.name == flow.name == dos_maker(engine).name
    assert flow.output == last.output
    copy = json.loads(json.dumps(flow, cls=MontyEncoder), cls=MontyDecoder)
    assert [job.name for job in copy.jobs] == [job.name for job in flow.jobs]
    assert len(flow_to_workflow(flow).fws) == len(list(flow.iterflow()))


def test_what_cannot_be_calculated_is_refused_before_submission(engine):
    cell = Lattice.cubic(4)
    with pytest.raises(DosError, match="partial occupancies; order it first"):
        dos_maker(engine).make(Structure(cell, [{"Al": 0.5, "Mg": 0.5}], [[0, 0, 0]]))
    with pytest.raises(DosError, match=r" no .* At|no At"):
        dos_maker(engine).make(Structure(cell, ["At"], [[0, 0, 0]]))


RECIPES = {
    ("gpaw", "fast"): "gpaw-pbe-fast-c5de4d12",
    ("gpaw", "standard"): "gpaw-pbe-standard-8c0a6922",
    ("gpaw", "accurate"): "gpaw-pbe-accurate-b896cae8",
    ("vasp", None): "vasp-pbe-mp-982291c8",
}


@pytest.mark.parametrize(("engine", "preset"), RECIPES)
def test_recipes_of_existing_databases(engine, preset):
    """Another name makes every stored calculation a stranger."""
    options = {"preset": preset} if preset else {}
    assert dos_maker(engine, **options).recipe == RECIPES[engine, preset]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_has_the_same_files_and_functions(engine):
    installation = import_module(f"workflows.dos.{engine}.installation")
    assert callable(installation.missing)
    assert callable(installation.installed)
    remarks = import_module(f"workflows.dos.{engine}.remarks").remarks
    assert list(inspect.signature(remarks).parameters) == ["symbols", "spin_polarized"]
