"""The VASP flow without VASP: inputs value by value, and hand-made output (see vasp_files)."""

import gzip
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jobflow import Flow, JobStore, Response, job, run_locally
from jobflow.managers.fireworks import flow_to_workflow
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Incar, Kpoints

from db.open import open_store
from models.spectra.spectrum import EDOS_GRID, align_edos, align_integral
from tests.benchmarks.dos_campaign import materials
from tests.workflows.dos.vasp.vasp_files import write_run
from tests.workflows.launchpads import make_site
from tests.workflows.screened_run import (
    plan_validation,
    put_run,
)
from workflows.dos.document import DosDocument, SourceFacts
from workflows.dos.errors import DosError
from workflows.dos.vasp import installation as vasp
from workflows.dos.vasp.maker import VaspDosMaker, vasp_dos
from workflows.dos.vasp.output import read_dos
from workflows.launchpad import open_launchpad, submit
from workflows.validation import ValidationFlowMaker

SILICON = Structure(
    Lattice([[0, 2.73, 2.73], [2.73, 0, 2.73], [2.73, 2.73, 0]]),
    ["Si", "Si"],
    [[0, 0, 0], [0.25, 0.25, 0.25]],
)
OXIDE = Structure(Lattice.cubic(4.2), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ENERGIES = np.linspace(-6.5, 12.0, 371)


def job_of(flow, name):
    return next(j for j, _ in flow.iterflow() if j.name == name)


def inputs(flow, name, structure):
    maker = job_of(flow, name).maker
    return maker.input_set_generator.get_input_set(structure, potcar_spec=True)


@pytest.fixture(autouse=True)
def no_potcars(monkeypatch):
    monkeypatch.delitem(vasp.PYMATGEN_SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


STATIC = {
    "ALGO": "Fast",
    "EDIFF": 1e-4,  # 5e-5 eV/atom
    "ENCUT": 520,
    "ISMEAR": -5,
    "ISPIN": 2,
    "LASPH": True,
    "LCHARG": True,
    "LORBIT": 11,
    "LREAL": False,
    "LWAVE": False,
    "MAGMOM": [0.6, 0.6],
    "NELM": 100,
    "NSW": 0,
    "PREC": "Accurate",
    "SIGMA": 0.05,
}
UNIFORM = {
    "ALGO": "Fast",
    "EDIFF": 1e-4,
    "ENCUT": 520,
    "ICHARG": 11,
    "ISMEAR": -5,
    "ISPIN": 2,
    "ISYM": 2,
    "LASPH": True,
    "LCHARG": False,
    "LORBIT": 11,
    "LREAL": False,
    "LWAVE": False,
    "NEDOS": 2001,
    "NELM": 100,
    "NSW": 0,
    "PREC": "Accurate",
    "SIGMA": 0.05,
}
RELAXATION = {
    "ALGO": "Fast",
    "EDIFF": 1e-4,
    "ENCUT": 520,
    "IBRION": 2,
    "ISIF": 3,
    "ISMEAR": -5,
    "ISPIN": 2,
    "LASPH": True,
    "LORBIT": 11,
    "LREAL": "Auto",
    "LWAVE": False,
    "MAGMOM": [0.6, 0.6],
    "NELM": 100,
    "NSW": 99,
    "PREC": "Accurate",
    "SIGMA": 0.05,
}
MESH = (14, 14, 14)  # (500 / Å^-3 of 6.1 / Å^3)^(1/3)
GAPPED_MESH = (8, 8, 8)  # with 100


def test_static_input_is_that_of_the_materials_project():
    files = inputs(VaspDosMaker().make(SILICON), "MP GGA static", SILICON)
    assert dict(files["INCAR"]) == STATIC
    assert files["KPOINTS"].kpts[0] == MESH
    assert files["KPOINTS"].style.name == "Gamma"
    assert files["POTCAR.spec"].split() == ["Si"]
    assert files["POSCAR"].structure == SILICON


def test_dos_input_is_that_of_the_materials_project():
    files = inputs(VaspDosMaker().make(SILICON), "MP GGA uniform", SILICON)
    assert dict(files["INCAR"]) == UNIFORM
    assert files["KPOINTS"].kpts[0] == MESH
    assert files["KPOINTS"].style.name == "Gamma"


@pytest.mark.parametrize(
    ("band_gap", "mesh"),
    [(None, MESH), (0.0, MESH), (0.5, MESH), (0.51, GAPPED_MESH), (3.0, GAPPED_MESH)],
)
def test_small_gaps_get_the_denser_mesh_of_atomates_recipe_in_both_runs(band_gap, mesh):
    flow = VaspDosMaker().make(SILICON, source=SourceFacts(band_gap))
    for name in ("MP GGA static", "MP GGA uniform"):
        assert inputs(flow, name, SILICON)["KPOINTS"].kpts[0] == mesh


def test_magnesium_aluminium_gets_13_divisions(paper_positives):
    flow = VaspDosMaker().make(paper_positives["mp-1039010"], source=SourceFacts(0.0))
    for name in ("MP GGA static", "MP GGA uniform"):
        files = inputs(flow, name, paper_positives["mp-1039010"])
        assert files["KPOINTS"].kpts[0] == (13, 13, 13)
        assert files["INCAR"]["LREAL"] is False


@pytest.fixture
def paper_positives():
    folder = os.environ.get("SCREEN_TEST_DATA")
    if not folder:
        pytest.skip("SCREEN_TEST_DATA is not set")
    table = pd.read_parquet(Path(folder) / "paper_predicted_positives.parquet")
    return {m.material_id: m.structure for m in materials(table[table["lattice"].notna()])}


def test_oxide_gets_hubbard_u_and_moments():
    files = inputs(VaspDosMaker().make(OXIDE), "MP GGA static", OXIDE)
    incar = files["INCAR"]
    assert incar["LDAU"] is True
    assert incar["LDAUU"] == [5.3, 0]
    assert incar["MAGMOM"] == [5.0, 0.6]
    assert files["POTCAR.spec"].split() == ["Fe_pv", "O"]


def test_denser_mesh_and_other_potcars_are_options():
    maker = VaspDosMaker(reciprocal_density=1000, user_incar_settings={"ENCUT": 600})
    flow = maker.make(SILICON, source=SourceFacts(1.1))
    files = inputs(flow, "MP GGA uniform", SILICON)
    assert files["KPOINTS"].kpts[0] == (18, 18, 18)
    assert files["INCAR"]["ENCUT"] == 600
    assert maker.recipe != VaspDosMaker().recipe
    assert VaspDosMaker(potcar_functional="PBE_54").dos_set().user_potcar_functional == "PBE_54"


def test_uniform_run_continues_the_static_run():
    flow = VaspDosMaker(wall_time_limit=7200).make(SILICON)
    static, dos, document = flow.jobs
    assert dos.function_kwargs["prev_dir"].uuid == static.uuid
    assert dos.function_kwargs["mode"] == "uniform"
    assert {r.uuid for r in document.input_references} == {static.uuid, dos.uuid}
    assert static.maker.run_vasp_kwargs == dos.maker.run_vasp_kwargs == {"wall_time": 7200}
    assert flow.output.uuid == document.uuid


@pytest.mark.slow
def test_two_relaxations_come_first():
    flow = VaspDosMaker(relax=True).make(SILICON)
    names = [j.name for j, _ in flow.iterflow()]
    assert names == [
        "MP GGA relax 1",
        "MP GGA relax 2",
        "MP GGA static",
        "MP GGA uniform",
        "VASP DOS",
    ]
    assert dict(inputs(flow, "MP GGA relax 1", SILICON)["INCAR"]) == RELAXATION
    relax2, static = job_of(flow, "MP GGA relax 2"), job_of(flow, "MP GGA static")
    assert static.function_args[0].uuid == relax2.uuid
    assert VaspDosMaker(relax=True).recipe != VaspDosMaker().recipe


@pytest.mark.parametrize(
    ("relax", "functional", "relaxed"),
    [
        (None, "r2SCAN", True),
        (None, "SCAN", True),
        (None, "PBEsol", True),
        (None, "GGA", False),
        (None, "GGA+U", False),
        (None, None, False),
        (False, "r2SCAN", False),
        (True, "GGA", True),
    ],
)
def test_structures_of_another_functional_are_relaxed_first(relax, functional, relaxed):
    flow = VaspDosMaker(relax=relax).make(SILICON, source=SourceFacts(0.0, functional))
    names = [j.name for j, _ in flow.iterflow()]
    assert ("MP GGA relax 1" in names) is relaxed


@pytest.mark.parametrize("relax", [False, True])
def test_flow_survives_json_and_fireworks(relax):
    flow = VaspDosMaker(relax=relax).make(SILICON, material_id="mp-149")
    copy = json.loads(json.dumps(flow, cls=MontyEncoder), cls=MontyDecoder)
    copied = job_of(copy, "MP GGA uniform").maker.input_set_generator
    assert (copied.nedos, copied.reciprocal_density, copied.mode) == (2001, 500, "uniform")
    given = dict(job_of(copy, "VASP DOS").function_kwargs)
    assert len(given.pop("earlier")) == (2 if relax else 0)
    assert given == {"material_id": "mp-149", "band_gap": None}
    workflow = flow_to_workflow(flow, store=JobStore(MemoryStore()))
    assert len(workflow.fws) == (5 if relax else 3)
    again = type(workflow).from_format(workflow.to_format("json"), "json")
    assert sorted(fw.name for fw in again.fws) == sorted(fw.name for fw in workflow.fws)


def test_what_cannot_be_computed_is_refused_before_submission():
    with pytest.raises(DosError, match="no POTCAR for At"):
        VaspDosMaker().make(Structure(Lattice.cubic(5), ["At"], [[0, 0, 0]]))
    with pytest.raises(DosError, match="order it first"):
        VaspDosMaker().make(Structure(Lattice.cubic(4), [{"Al": 0.5, "Mg": 0.5}], [[0, 0, 0]]))


def test_missing_things_are_one_line_each(monkeypatch, tmp_path):
    monkeypatch.setattr(vasp.SETTINGS, "VASP_CMD", "no_mpirun -n 4 /opt/none/vasp_std")
    command, potcars = vasp.missing()
    assert "no_mpirun, /opt/none/vasp_std" in command
    assert "PMG_VASP_PSP_DIR" in potcars
    monkeypatch.setitem(vasp.PYMATGEN_SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "none"))
    assert "does not exist" in vasp.missing()[1]
    program = tmp_path / "vasp_std"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(vasp.SETTINGS, "VASP_CMD", str(program))
    monkeypatch.setitem(vasp.PYMATGEN_SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path))
    assert vasp.missing() == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("", "VASP command is empty (VASP_CMD is '')"),
        (" ", "VASP command is empty (VASP_CMD is ' ')"),
        ("mpirun 'vasp_std", "VASP command cannot be read: No closing quotation (VASP_CMD is "),
    ],
)
def test_a_command_that_cannot_be_is_one_line(monkeypatch, command, problem):
    monkeypatch.setattr(vasp.SETTINGS, "VASP_CMD", command)
    found, _ = vasp.missing()
    assert found.startswith(problem)
    assert found.endswith(
        "set VASP_CMD in ~/.atomate2.yaml or ATOMATE2_VASP_CMD in the environment"
    )


def insulator(top=12.0):
    """Two k-points, 4 filled bands below 5.2 eV, 4 empty ones from 5.8 eV to `top`."""
    filled = [[-6.0, 1.0, 4.0, 5.2], [-5.0, 0.0, 3.0, 5.0]]
    empty = [[6.5, 7.0, 8.0, top], [5.8, 7.5, 9.0, top]]
    bands = np.concatenate([filled, empty], axis=1)[None]
    occupations = np.tile([1.0] * 4 + [0.0] * 4, (1, 2, 1))
    density = 8 / (5.2 - ENERGIES[0])  # 8 electrons below the gap
    dos = np.where((ENERGIES > 5.21) & (ENERGIES < 5.79), 0.0, density)[None]
    return {"bands": bands, "occupations": occupations, "dos": dos}


def with_spin(run):
    """The same run with two equal spin channels."""
    channels = {name: np.repeat(values, 2, axis=0) for name, values in run.items()}
    return channels | {"dos": channels["dos"] / 2}


def write_pair(folder: Path, **dos_run):
    write_run(
        folder / "static", SILICON, energy=-10.84, n_electrons=8, mesh=(9, 9, 9), seconds=20.0
    )
    options = {
        "energy": -10.8, "n_electrons": 8, "mesh": (12, 12, 12), "efermi": 5.5,
        "energies": ENERGIES, **insulator(),
    }  # fmt: skip
    write_run(folder / "dos", SILICON, **{**options, **dos_run})
    return folder / "static", folder / "dos"


def test_handmade_insulator_is_read(tmp_path):
    static, dos = write_pair(tmp_path)
    document = read_dos(static, dos, VaspDosMaker(), "mp-149")
    assert (document.engine, document.engine_version) == ("vasp", "6.4.2")
    assert (document.vbm, document.cbm, document.efermi) == (5.2, 5.8, 5.5)
    assert document.band_gap == pytest.approx(0.6)
    assert document.energy == -10.84  # of the static run
    assert (document.kmesh_scf, document.kmesh_dos) == ((9, 9, 9), (12, 12, 12))
    assert document.emax == 12.0
    assert document.wall_time == pytest.approx(32.5)
    assert document.recipe == VaspDosMaker().recipe
    assert not document.is_spin_polarized
    assert document.structure == SILICON
    np.testing.assert_allclose(document.energies, (ENERGIES[1:] + ENERGIES[:-1]) / 2, atol=1e-4)
    np.testing.assert_allclose(document.dos, insulator()["dos"][0][1:], rtol=1e-4)


@pytest.mark.parametrize(("top", "efermi"), [(5.2, 5.5), (4.0, 5.5), (5.2, 5.2), (5.2, 5.0)])
def test_narrow_band_keeps_its_electrons(tmp_path, top, efermi):
    half = 0.01  # eV of a semi-elliptic band of 4 electrons, 20 meV wide
    energies = np.linspace(-6.4937, 12.0063, 926)  # 20 meV apart
    x = np.clip((energies - top + half) / half, -1, 1)
    dos = 8 / (np.pi * half) * np.sqrt(1 - x**2)
    dos[energies < -5.5] = 4.0
    dos[energies > 5.9] = 1.0
    integrated = 4 * (0.5 + (x * np.sqrt(1 - x**2) + np.arcsin(x)) / np.pi)
    integrated += 4 * np.clip(energies - energies[0], 0, 1) + np.clip(energies - 5.9, 0, None)
    static, folder = write_pair(
        tmp_path, energies=energies, dos=dos[None], integrated=integrated[None], efermi=efermi
    )
    document = read_dos(static, folder, VaspDosMaker())
    spectrum = align_integral(document.integral, document.vbm, document.cbm)
    assert spectrum.values[:64].sum() * EDOS_GRID.width == pytest.approx(4.0, abs=1e-3)
    points = align_edos(energies, dos, document.vbm, document.cbm)  # what VASP's own DOS holds
    assert points.values[:64].sum() * EDOS_GRID.width > 4.4


@pytest.mark.parametrize("efermi", [5.21, 5.22, 5.24])
def test_gap_narrower_than_a_step_lies_between_what_its_ends_hold(tmp_path, efermi):
    bands = insulator()["bands"]
    bands[0, :, 3:5] = [[5.21, 5.26], [5.203, 5.24]]  # in the step of 50 meV from 5.2 eV
    dos = np.zeros((1, len(ENERGIES)))
    for held, is_sound in (([4.0, 8.5], True), ([4.0, 7.0], False)):
        integrated = np.interp(ENERGIES, [-6.0, 5.2, 5.25, 12.0], [0.0, *held, 16.0])
        static, folder = write_pair(
            tmp_path, bands=bands, dos=dos, integrated=integrated[None], efermi=efermi
        )
        if is_sound:
            assert read_dos(static, folder, VaspDosMaker()).band_gap == pytest.approx(0.03)
        else:
            with pytest.raises(DosError, match=r"holds 7\.00 electrons .* NELECT is 8"):
                read_dos(static, folder, VaspDosMaker())


def test_dos_that_does_not_hold_its_electrons_is_refused(tmp_path):
    static, dos = write_pair(tmp_path, dos=insulator()["dos"] * 1.02)
    with pytest.raises(DosError, match=r"holds 8\.16 electrons .* NELECT is 8"):
        read_dos(static, dos, VaspDosMaker())
    static, dos = write_pair(tmp_path, dos=insulator()["dos"] * 0.995)
    read_dos(static, dos, VaspDosMaker())


@pytest.mark.parametrize(
    ("pattern", "instead", "message"),
    [
        (r"<r>([^<\s]+ [^<\s]+) [^<\s]+</r>", r"<r>\1</r>", "has no integrated DOS"),
        (r"<dos>.*</dos>", "", "has no integrated DOS"),
        (r"<eigenvalues>.*</eigenvalues>", "", "no eigenvalues"),
        (r'<i name="NELECT">8.00000000</i>', "", "does not say NELECT"),
    ],
)
def test_run_without_integrated_dos_or_nelect_is_one_line(tmp_path, pattern, instead, message):
    static, dos = write_pair(tmp_path)
    whole = (dos / "vasprun.xml").read_text()
    assert re.search(pattern, whole)
    (dos / "vasprun.xml").write_text(re.sub(pattern, instead, whole))
    with pytest.raises(DosError, match=message) as error:
        read_dos(static, dos, VaspDosMaker())
    assert "\n" not in str(error.value)


def test_gzipped_output_and_host_prefix_are_read(tmp_path):
    static, dos = write_pair(tmp_path)
    expected = read_dos(static, dos, VaspDosMaker())
    for path in [*static.iterdir(), *dos.iterdir()]:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read_dos(f"node7:{static}", f"node7:{dos}", VaspDosMaker()) == expected


def test_both_spins_are_added_and_the_moment_is_counted(tmp_path):
    bands = np.array([[[0.0, 2.0, 9.0]], [[1.0, 3.0, 9.5]]]) + 1.0
    occupations = np.array([[[1.0, 1.0, 0.0]], [[1.0, 0.25, 0.0]]])
    density = 3.25 / (3.9 - ENERGIES[0])
    dos = np.stack([np.full(371, density / 4), np.full(371, 3 * density / 4)])
    static, folder = write_pair(
        tmp_path, bands=bands, occupations=occupations, dos=dos, n_electrons=3.25, efermi=3.9
    )
    document = read_dos(static, folder, VaspDosMaker())
    assert document.is_spin_polarized
    assert document.magnetization == pytest.approx(0.75)
    assert document.is_magnetic
    np.testing.assert_allclose(document.dos, density, rtol=1e-4)
    assert document.vbm == document.cbm == document.efermi == 3.9


@pytest.mark.parametrize(("moment", "magnetic"), [(0.02, False), (1.5, True)])
def test_antiferromagnet_is_magnetic_without_a_total_moment(tmp_path, moment, magnetic):
    static, dos = write_pair(tmp_path, **with_spin(insulator()))
    write_run(static, SILICON, energy=-1, n_electrons=8, mesh=(9, 9, 9), moments=[moment, -moment])
    document = read_dos(static, dos, VaspDosMaker())
    assert document.magnetization == pytest.approx(0.0)
    assert document.largest_moment == moment
    assert document.is_magnetic is magnetic


@pytest.mark.parametrize("up", [0.0, 0.25])
def test_a_uniform_run_without_spin_after_a_static_run_with_it(tmp_path, up):
    # MPNonSCFSet leaves spin out where no site has a moment; one between the sites stays.
    scf = with_spin(insulator())
    scf["occupations"][:, :, 4] += [[up], [0.0]]
    iron = Structure(SILICON.lattice, ["Fe", "Fe"], SILICON.frac_coords)
    facts = {"n_electrons": 8, "efermi": 5.5, "energies": ENERGIES, "energy": -1}
    write_run(tmp_path / "static", iron, mesh=(9, 9, 9), moments=[0.01, 0.0], **facts, **scf)
    write_run(tmp_path / "dos", iron, mesh=(9, 9, 9), **facts, **insulator())
    document = read_dos(tmp_path / "static", tmp_path / "dos", VaspDosMaker())
    assert document.is_spin_polarized
    assert document.magnetization == pytest.approx(up)
    assert document.largest_moment == 0.01
    assert document.is_magnetic is (up > 0)
    assert "without spin polarisation" not in " ".join(document.warnings)


def test_dos_that_starts_above_the_window_is_padded_with_zeros(tmp_path):
    energies = np.linspace(3.0, 12.0, 181)
    bands = insulator()["bands"].clip(min=3.2)
    static, dos = write_pair(tmp_path, energies=energies, dos=np.full((1, 181), 3.2), bands=bands)
    document = read_dos(static, dos, VaspDosMaker())
    assert document.energies[0] <= document.vbm - 4
    assert set(np.array(document.dos)[np.array(document.energies) < 2.99]) == {0.0}
    assert (np.diff(document.energies) > 0).all()


def test_unconverged_static_run_and_missing_files_are_one_line(tmp_path):
    static, dos = write_pair(tmp_path)
    write_run(static, SILICON, energy=-1, n_electrons=8, mesh=(9, 9, 9), n_steps=100)
    with pytest.raises(DosError, match="did not reach self-consistency"):
        read_dos(static, dos, VaspDosMaker())
    with pytest.raises(DosError, match=r"no vasprun\.xml in"):
        read_dos(tmp_path / "nowhere", dos, VaspDosMaker())
    (dos / "vasprun.xml").write_text("<modeling><calculation>")
    write_run(static, SILICON, energy=-1, n_electrons=8, mesh=(9, 9, 9))
    with pytest.raises(DosError, match="cannot be read"):
        read_dos(static, dos, VaspDosMaker())


# Output of runs that went wrong, in VASP's format but made by hand: VASP itself was not run.

SPINORS = (
    '<separator name="electronic spin"><i type="int" name="ISPIN">     1</i>'
    '<i type="logical" name="LNONCOLLINEAR"> T  </i><i type="logical" name="LSORBIT"> T  </i>'
    "</separator>"
)
ONE_ELECTRON_A_BAND = {
    "bands": np.repeat(insulator()["bands"], 2, axis=2),
    "occupations": np.repeat(insulator()["occupations"], 2, axis=2),
}


def test_dos_run_that_ended_at_nelm_is_refused(tmp_path):
    static, dos = write_pair(tmp_path, n_steps=100)
    with pytest.raises(DosError, match=r"DOS run in .*dos did not converge in NELM = 100 steps"):
        read_dos(static, dos, VaspDosMaker())
    write_pair(tmp_path, n_steps=99)
    read_dos(static, dos, VaspDosMaker())


def test_spin_orbit_output_is_refused(tmp_path):
    static, dos = write_pair(tmp_path, tags=SPINORS, **ONE_ELECTRON_A_BAND)
    with pytest.raises(DosError, match=r"has LSORBIT: its bands hold one electron each"):
        read_dos(static, dos, VaspDosMaker())
    write_pair(tmp_path)
    options = {"energy": -1, "n_electrons": 8, "mesh": (9, 9, 9)}
    write_run(static, SILICON, **options, tags=SPINORS.replace("LSORBIT", "LDAU"))
    with pytest.raises(DosError, match=r"static has LNONCOLLINEAR"):
        read_dos(static, dos, VaspDosMaker())
    write_run(static, SILICON, **options, tags=SPINORS.replace(" T ", " F "))
    read_dos(static, dos, VaspDosMaker())


@pytest.mark.parametrize("tag", ["LSORBIT", "LNONCOLLINEAR"])
def test_spin_orbit_coupling_is_refused_before_submission(tag):
    with pytest.raises(DosError, match=f"{tag} is not supported"):
        VaspDosMaker(user_incar_settings={tag: True}).make(SILICON)
    VaspDosMaker(user_incar_settings={tag: False}).make(SILICON)


def cut(low, high, counts_below=True):
    """DOS of the insulator from EMIN to EMAX; VASP's integral may start with what is below."""
    dos, kept = insulator()["dos"], (low <= ENERGIES) & (high >= ENERGIES)
    integrated = np.cumsum(dos * np.diff(ENERGIES, prepend=ENERGIES[0]), axis=1)[:, kept]
    if not counts_below:
        integrated = integrated - integrated[:, :1]
    return {"energies": ENERGIES[kept], "dos": dos[:, kept], "integrated": integrated}


@pytest.mark.parametrize("counts_below", [True, False])
def test_emin_that_cuts_the_window_is_refused(tmp_path, counts_below):
    static, dos = write_pair(tmp_path, **cut(2.0, 12.0, counts_below))
    with pytest.raises(DosError, match=r"begins at 2\.00 eV, -3\.20 eV from the VBM .* EMIN"):
        read_dos(static, dos, VaspDosMaker())
    static, dos = write_pair(tmp_path, **cut(7.0, 12.0, counts_below))
    with pytest.raises(DosError, match="EMIN"):
        read_dos(static, dos, VaspDosMaker())


def test_emin_below_the_window_is_read(tmp_path):
    static, dos = write_pair(tmp_path, **cut(1.0, 12.0))  # VBM - 4.2 eV; bands begin at -6 eV
    document = read_dos(static, dos, VaspDosMaker())
    whole = read_dos(*write_pair(tmp_path / "whole"), VaspDosMaker())
    np.testing.assert_allclose(document.spectrum().values, whole.spectrum().values, atol=1e-3)
    static, dos = write_pair(tmp_path, **cut(1.0, 12.0, counts_below=False))
    with pytest.raises(DosError, match="its EMIN cuts bands off"):
        read_dos(static, dos, VaspDosMaker())


@pytest.mark.parametrize("emax", [8.0, 5.5])
def test_emax_that_cuts_the_window_is_refused_and_not_repeated(tmp_path, emax):
    static, dos = write_pair(tmp_path, **cut(-6.5, emax))
    job = vasp_dos(str(static), str(dos), VaspDosMaker())
    with pytest.raises(DosError, match=rf"ends at {emax:.2f} eV.* EMAX cuts bands off"):
        job.function(*job.function_args, **job.function_kwargs)


def test_emax_above_the_window_is_read(tmp_path):
    static, dos = write_pair(tmp_path, **cut(-6.5, 10.0))  # CBM + 4.2 eV
    assert read_dos(static, dos, VaspDosMaker()).emax == 12.0


EFERMI = r'<i name="efermi">5.50000000</i>'


@pytest.mark.parametrize(
    ("which", "pattern", "instead", "message"),
    [
        ("dos", EFERMI, "", "has no Fermi level"),
        ("dos", EFERMI, '<i name="efermi">***************</i>', r"Fermi level is '\*+'"),
        ("dos", EFERMI, '<i name="efermi">            NaN</i>', "Fermi level is 'NaN'"),
        ("dos", r"<r>-6\.0000 \S+ \S+</r>", "<r>-6.0000 0.1 *********</r>", r"could not print"),
        ("dos", r"<r>5\.200000 1", "<r>*********** 1", r"eigenvalues in .*could not print"),
        ("static", r'"e_(\w+)">-10.84<', r'"e_\1">********<', "no energy that can be read"),
        ("dos", r"</calculation>.*", "", "cannot be read, or is cut off"),
        ("static", r"<calculation>.*</calculation>", "", "no finished step"),
        ("dos", r"(<dos>.{400}).*", r"\1", "cannot be read, or is cut off"),
    ],
)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_output_that_is_broken_is_one_line(tmp_path, which, pattern, instead, message, is_zipped):
    static, dos = write_pair(tmp_path)
    path = tmp_path / which / "vasprun.xml"
    whole = path.read_text()
    assert re.search(pattern, whole, re.DOTALL)
    broken = re.sub(pattern, instead, whole, flags=re.DOTALL)
    path.write_text(broken)
    if is_zipped:
        path.unlink()
        path.with_name("vasprun.xml.gz").write_bytes(gzip.compress(broken.encode()))
    with pytest.raises(DosError, match=message) as error:
        read_dos(static, dos, VaspDosMaker())
    assert "\n" not in str(error.value)


def test_zipped_output_that_is_cut_off_is_one_line(tmp_path):
    static, dos = write_pair(tmp_path)
    path = dos / "vasprun.xml"
    zipped = gzip.compress(path.read_bytes())
    path.unlink()
    (dos / "vasprun.xml.gz").write_bytes(zipped[: len(zipped) // 2])
    with pytest.raises(DosError, match=r"vasprun\.xml\.gz cannot be read, or is cut off") as error:
        read_dos(static, dos, VaspDosMaker())
    assert "\n" not in str(error.value)


def test_a_document_that_contradicts_itself_is_one_line(tmp_path):
    negative = insulator()["dos"].copy()
    negative[0, 20:40] = -1.0
    negative[0, 40:60] = 2 * negative[0, 60] + 1.0  # so that the electrons are all there
    static, dos = write_pair(tmp_path, dos=negative)
    with pytest.raises(DosError, match=r"output of vasp for Si is wrong: DOS is negative") as error:
        read_dos(static, dos, VaspDosMaker())
    assert "\n" not in str(error.value)


def test_wall_time_is_unknown_without_outcar(tmp_path):
    static, dos = write_pair(tmp_path)
    (dos / "OUTCAR").unlink()
    assert read_dos(static, dos, VaspDosMaker()).wall_time is None


def test_too_few_bands_are_computed_again_once_with_twice_as_many(tmp_path):
    static, dos = write_pair(tmp_path, **insulator(top=9.5))
    job = vasp_dos(str(static), str(dos), VaspDosMaker(), material_id="mp-149")
    response = job.function(*job.function_args, **job.function_kwargs)
    assert isinstance(response, Response)
    again, document = response.replace.jobs
    assert again.maker.input_set_generator.nbands_factor == pytest.approx(2.4)
    assert again.function_kwargs["prev_dir"] == str(static)
    assert document.function_kwargs == {
        "material_id": "mp-149",
        "band_gap": None,
        "earlier": [str(dos)],
        "repeat": False,
    }
    with pytest.raises(DosError, match="compute more bands"):
        job.function(str(static), str(dos), VaspDosMaker(), repeat=False)


def test_job_gives_a_document(tmp_path):
    static, dos = write_pair(tmp_path)
    job = vasp_dos(str(static), str(dos), VaspDosMaker(), material_id="mp-149")
    store = JobStore(MemoryStore())
    store.connect()
    response = job.run(store=store)
    assert isinstance(response.output, DosDocument)
    assert store.get_output(job.uuid)["material_id"] == "mp-149"


# the whole flow, with hand-made output where VASP would run


@dataclass(frozen=True)
class Given:
    """What a folder held when VASP would have begun."""

    incar: dict
    mesh: tuple[int, int, int]
    structure: Structure
    has_density: bool
    wall_time: int


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Runs of the stand-in; it finds bands up to 9.5 eV, or 12 eV if asked for many."""
    from pymatgen.io.vasp.sets import VaspInputSet

    monkeypatch.chdir(tmp_path)
    given = []

    def run_vasp(wall_time):
        incar, structure = dict(Incar.from_file("INCAR")), Structure.from_file("POSCAR")
        mesh = Kpoints.from_file("KPOINTS").kpts[0]
        given.append(Given(incar, mesh, structure, Path("CHGCAR").exists(), wall_time))
        bands = insulator(top=12.0 if incar.get("NBANDS", 0) >= 20 else 9.5)
        if incar["ISPIN"] == 2:
            bands = with_spin(bands) | {"moments": [0.0] * len(structure)}
        options = {"efermi": 5.5, "energies": ENERGIES, "energy": -10.84, "n_electrons": 8}
        write_run(Path(), structure, mesh=mesh, **options, **bands)
        structure.to(fmt="poscar", filename="CONTCAR")
        Path("CHGCAR").touch()

    get_input_set = VaspInputSet.get_input_set

    def without_potcars(self, *arguments, **options):
        return get_input_set(self, *arguments, **(options | {"potcar_spec": True}))

    monkeypatch.setattr("atomate2.vasp.jobs.base.run_vasp", run_vasp)
    monkeypatch.setattr(VaspInputSet, "nelect", 8)  # else read from POTCARs
    monkeypatch.setattr(VaspInputSet, "get_input_set", without_potcars)
    return given


def run_with_reader(flow):
    """Run a flow and a job that takes its output; returns what that got."""
    reader = as_read(flow.output)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    responses = run_locally(
        Flow([flow, reader]), store=store, create_folders=True, ensure_success=True
    )
    return responses[reader.uuid][1].output


@job
def as_read(document):
    assert isinstance(document, DosDocument)
    return document


def test_the_whole_flow_writes_the_settings_and_reads_what_comes_of_it(runs):
    maker = VaspDosMaker(wall_time_limit=7200, nbands_factor=2.5)
    document = run_with_reader(maker.make(SILICON, material_id="mp-149"))
    static, uniform = runs
    assert static.incar == STATIC
    # NBANDS and ISPIN depend on the static run, whose 8 bands have no moment here
    assert uniform.incar == UNIFORM | {"NBANDS": 20, "ISPIN": 1}
    assert (static.mesh, uniform.mesh) == (MESH, MESH)
    assert (static.has_density, uniform.has_density) == (False, True)
    assert static.wall_time == uniform.wall_time == 7200
    assert static.structure.matches(SILICON)
    assert uniform.structure.matches(SILICON)
    assert (document.material_id, document.vbm, document.cbm) == ("mp-149", 5.2, 5.8)
    assert (document.recipe, document.emax) == (maker.recipe, 12.0)
    assert document.is_spin_polarized
    assert document.is_magnetic is False


def test_the_whole_flow_relaxes_twice_first(runs):
    maker = VaspDosMaker(relax=True, nbands_factor=2.5)
    document = run_with_reader(maker.make(SILICON))
    relaxations, static, uniform = runs[:2], runs[2], runs[3]
    found = {"MAGMOM": [0.0, 0.0]}  # by the run before
    assert [run.incar for run in relaxations] == [RELAXATION, RELAXATION | found]
    assert (static.incar, uniform.incar["ICHARG"]) == (STATIC | found, 11)
    assert document.recipe == maker.recipe
    assert document.wall_time == 4 * 12.5


@pytest.mark.slow
def test_the_whole_flow_with_too_few_bands_runs_once_more(runs):
    document = run_with_reader(VaspDosMaker().make(SILICON, material_id="mp-149"))
    assert [run.incar.get("NBANDS") for run in runs] == [None, 10, 20]
    assert (document.material_id, document.emax) == ("mp-149", 12.0)
    assert document.recipe == VaspDosMaker().recipe
    assert document.wall_time == 3 * 12.5


@pytest.mark.mongo
def test_on_a_launchpad_the_verdict_waits_for_the_run_with_more_bands(
    runs, tmp_path, mongo_uri, monkeypatch
):
    from fireworks import FWorker
    from fireworks.core.rocket_launcher import rapidfire

    site = make_site(tmp_path, mongo_uri)
    job_store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    monkeypatch.setattr("jobflow.SETTINGS.JOB_STORE", job_store)
    monkeypatch.setenv("SCREEN_DB", site.db)
    with open_store(site.db) as store, open_launchpad(site.launchpad) as launchpad:
        run = put_run(store, {"mp-149": SILICON}, ["mp-149"])
        maker = ValidationFlowMaker(db=site.db, dos_maker=VaspDosMaker())
        plan = plan_validation(store, run, "vasp", maker.dos_maker.recipe)
        submit(launchpad, store, maker, plan.todo)
        rapidfire(launchpad, FWorker(category="vasp"))
        states = set(launchpad.fireworks.distinct("state"))
        categories = set(launchpad.fireworks.distinct("spec._category"))
        (found,) = store.validations(run_id="run-1")
    assert states == {"COMPLETED"}
    assert categories == {"vasp"}  # of the jobs that were added as well
    assert [run.incar.get("NBANDS") for run in runs] == [None, 10, 20]
    assert (found.state, found.error) == ("done", None)
    assert found.band_gap == pytest.approx(0.6)
