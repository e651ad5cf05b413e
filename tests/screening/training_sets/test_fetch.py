import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Lattice, Structure

from models.spectra.spectrum import EDOS_GRID, PHDOS_PAPER_GRID, EnergyGrid
from screening.errors import ScreeningError
from screening.sources import open_source
from screening.training_sets.delta_tables import SpectraTable
from screening.training_sets.edos import edos_columns, fetch_edos
from screening.training_sets.phonons import THZ, fetch_phdos, phdos_columns
from screening.training_sets.training_set import LeftOutError

KEY = "k" * 31 + "1"
ENERGIES = np.linspace(-12.0, 14.0, 2001)
METAL = {"band_gap": 0.0, "vbm": None, "cbm": None, "nsites": 2}
MGO = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def holding(dos, efermi, odd=0, energies=ENERGIES):
    """The DOS with so many states from -11 to -6 eV that below E_F is a whole number of electrons.

    That number is odd or even as asked.
    """
    dos, below = np.array(dos, float), energies < efermi - 6
    dos[below] = 0.0
    block = np.where(below & (energies > efermi - 11), 1.0, 0.0)

    def electrons(values):
        fine = np.append(energies[energies < efermi], efermi)
        return np.trapezoid(np.interp(fine, energies, values), fine)

    target = odd + 2 * np.ceil((electrons(dos) + 2 - odd) / 2)
    return dos + block * (target - electrons(dos)) / electrons(block)


def row(energies=ENERGIES, dos=None, down=None, efermi=0.0, run_type="GGA", structure=MGO):
    if dos is None:
        dos = np.full(len(energies), 3.0)
        dos = holding(dos, 0.0) if energies is ENERGIES else dos
    return {
        "structure": structure.as_dict() if structure else None,
        "energies": energies,
        "spin_up_densities": dos,
        "spin_down_densities": down,
        "efermi": efermi,
        "run_type": run_type,
    }


def gapped(vbm, cbm, energies=ENERGIES):
    dos = np.where((energies > vbm) & (energies < cbm), 0.0, 4.0)
    return holding(dos, (vbm + cbm) / 2)


# --- putting a DOS on the grid --------------------------------------------------------------


def test_metal_is_aligned_at_the_fermi_level():
    dos = holding(2.0 + np.sin(3 * ENERGIES), 1.3)
    label = edos_columns(row(dos=dos, efermi=1.3), METAL)
    fine = np.linspace(-4, 4, 128 * 500 + 1) + 1.3
    averages = np.interp(fine[:-1] + np.diff(fine) / 2, ENERGIES, dos).reshape(128, 500).mean(1)
    np.testing.assert_allclose(label["spectrum"], averages, atol=1e-4)
    assert (label["edges"], label["vbm"], label["cbm"]) == ("metal", 1.3, 1.3)


INSULATOR = {"band_gap": 2.0, "vbm": 0.5, "cbm": 2.5, "nsites": 2}


def test_gap_is_cut_out_at_the_eigenvalues():
    dos = gapped(0.5, 2.5)
    label = edos_columns(row(dos=dos, efermi=1.0), INSULATOR)
    assert label["edges"] == "eigenvalues"
    assert label["band_gap"] == 2.0
    np.testing.assert_allclose(label["spectrum"][:63], 4.0, rtol=1e-6)
    np.testing.assert_allclose(label["spectrum"][65:], 4.0, rtol=1e-6)


@pytest.mark.parametrize(
    "material",
    [
        {"vbm": None, "cbm": None},
        {"vbm": -3.5, "cbm": -1.5},  # of a calculation on another scale
        {"band_gap": None, "vbm": None, "cbm": None},
    ],
)
def test_edges_come_from_the_dos_where_there_are_no_eigenvalues(material):
    label = edos_columns(row(dos=gapped(0.5, 2.5), efermi=1.0), INSULATOR | material)
    assert label["edges"] == "dos"
    assert label["vbm"] == pytest.approx(0.5, abs=0.02)
    assert label["cbm"] == pytest.approx(2.5, abs=0.02)
    assert label["spectrum"][60] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("material", "reason"),
    [
        ({"band_gap": 0.6, "vbm": 0.5, "cbm": 1.1}, "differs from the material's"),
        ({"band_gap": 0.6, "vbm": None, "cbm": None}, "differs from the material's"),
        ({"band_gap": 1.9, "vbm": 0.5, "cbm": 2.4}, "differs from the material's"),
        ({"band_gap": 1.9, "vbm": 0.6, "cbm": 2.5}, "differs from the material's"),
        ({"band_gap": 3.0, "vbm": 0.5, "cbm": 3.5}, "differs from the material's"),
        ({"band_gap": 0.0, "vbm": None, "cbm": None}, "metal whose DOS is empty"),
    ],
)
def test_gap_that_differs_by_more_than_a_bin_is_refused(material, reason):
    with pytest.raises(LeftOutError, match=reason):
        edos_columns(row(dos=gapped(0.5, 2.5), efermi=1.0), INSULATOR | material)


@pytest.mark.parametrize("edges", [(0.45, 2.5), (0.55, 2.45), (0.5, 2.55)])
def test_edges_may_differ_by_a_bin(edges):
    vbm, cbm = edges
    material = INSULATOR | {"band_gap": cbm - vbm, "vbm": vbm, "cbm": cbm}
    assert edos_columns(row(dos=gapped(0.5, 2.5), efermi=1.0), material)["edges"] == "eigenvalues"


def test_light_band_begins_where_its_first_states_are():
    """MgO's conduction band rises as 0.026 sqrt(E) states/eV: 0.05 are 3.6 eV above its edge."""
    above = 0.026 * np.sqrt(np.clip(ENERGIES - 2.5, 0, None))
    dos = np.where(ENERGIES > 2.5, above, gapped(0.5, 2.5))
    for material in (INSULATOR, INSULATOR | {"vbm": None, "cbm": None}):
        label = edos_columns(row(dos=dos, efermi=1.0), material)
        assert label["cbm"] == pytest.approx(2.5, abs=0.03)


def test_spin_channels_of_a_nonmagnetic_material_are_added():
    dos = holding(2.0 + np.sin(3 * ENERGIES), 1.3)
    both = edos_columns(row(dos=dos / 2, down=dos / 2, efermi=1.3), METAL)
    np.testing.assert_allclose(
        both["spectrum"], edos_columns(row(dos=dos, efermi=1.3), METAL)["spectrum"], rtol=1e-6
    )


def narrow_band(step):
    """A semi-elliptic band of 4 electrons, 20 meV wide, as VASP has it at energies `step` apart."""
    energies = np.arange(-12.0037, 14, step)
    x = np.clip((energies + 1.0) / 0.01, -1, 1)
    return energies, 8 / (np.pi * 0.01) * np.sqrt(1 - x**2) + np.where(energies > 1.0, 1.0, 0.0)


def test_band_that_is_lost_between_the_energies_is_found_by_counting():
    material = {"band_gap": 1.99, "vbm": -0.99, "cbm": 1.0, "nsites": 2}
    energies, dos = narrow_band(0.0005)
    label = edos_columns(row(energies, dos, efermi=0.0), material)
    assert label["spectrum"][:64].sum() * EDOS_GRID.width == pytest.approx(4, abs=0.01)
    energies, dos = narrow_band(0.02)
    assert np.trapezoid(dos[energies < 0.5], energies[energies < 0.5]) > 4.6
    with pytest.raises(LeftOutError, match="whole number of electrons"):
        edos_columns(row(energies, dos, efermi=0.0), material)


def test_electrons_are_odd_where_the_crystal_has_an_odd_number():
    sodium = Structure(Lattice.cubic(3.4), ["Na"], [[0, 0, 0]])
    one = METAL | {"nsites": 1}
    constant = np.full(2001, 3.0)
    edos_columns(row(dos=holding(constant, 0.0, odd=1), structure=sodium), one)
    with pytest.raises(LeftOutError, match="whole number of electrons"):
        edos_columns(row(dos=holding(constant, 0.0), structure=sodium), one)
    praseodymium = Structure(Lattice.cubic(3.4), ["Pr"], [[0, 0, 0]])  # 4f shell in the core
    for odd in (0, 1):
        edos_columns(row(dos=holding(constant, 0.0, odd), structure=praseodymium), one)


def test_structure_is_that_of_the_calculation_of_the_dos():
    stretched = MGO.copy()
    stretched.scale_lattice(80.0)
    label = edos_columns(row(structure=stretched), METAL)
    assert abs(np.linalg.det(np.reshape(label["lattice"], (3, 3)))) == pytest.approx(80.0)
    assert list(label["species"]) == [12, 8]


IRON_OXIDE = Structure(Lattice.cubic(4.2), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.8), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("structure", "wanted"), [(MGO, "GGA"), (IRON, "GGA"), (IRON_OXIDE, "GGA+U")]
)
def test_functional_is_that_of_the_materials_project(structure, wanted):
    assert edos_columns(row(structure=structure, run_type=wanted), METAL)["run_type"] == wanted
    for run_type in {"GGA", "GGA+U", "r2SCAN", "PBEsol", None} - {wanted}:
        with pytest.raises(LeftOutError, match=f"where {re.escape(wanted)} is wanted"):
            edos_columns(row(structure=structure, run_type=run_type), METAL)


BACKWARDS = ENERGIES.copy()
BACKWARDS[700] = BACKWARDS[698]
NAN = np.full(2001, 3.0)
NAN[5] = np.nan


@pytest.mark.parametrize(
    ("data", "material", "reason"),
    [
        (row(down=np.full(2001, 2.9)), METAL, "magnetic calculation"),
        (row(down=np.full(1999, 3.0)), METAL, "incomplete DOS"),
        (row(structure=None), METAL, "no usable structure"),
        (row(), METAL | {"nsites": 4}, "another cell"),
        (row(dos=np.full(2001, 3.07)), METAL, "whole number of electrons"),
        (row(energies=BACKWARDS), METAL, "energies that do not increase"),
        (row(dos=NAN), METAL, "NaN in the DOS"),
        (row(energies=np.linspace(-3, 14, 2001)), METAL, "does not cover 4 eV"),
        (row(energies=np.linspace(-12, 3, 2001)), METAL, "does not cover 4 eV"),
        (row(dos=np.full(1999, 3.0)), METAL, "incomplete DOS"),
        ({**row(), "energies": None}, METAL, "incomplete DOS"),
        (row(efermi=None), METAL, "no usable band edges"),
        (row(efermi=float("nan")), METAL, "no usable band edges"),
        (row(), INSULATOR | {"vbm": None, "cbm": None}, "differs from the material's"),
        (row(efermi=20.0), INSULATOR | {"vbm": None, "cbm": None}, "no usable band edges"),
        (row(dos=np.zeros(2001)), METAL, "zero everywhere"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_reason(data, material, reason):
    with pytest.raises(LeftOutError, match=reason):
        edos_columns(data, material)


def test_phonon_dos_keeps_its_modes():
    thz = np.linspace(-2, 35, 3001)
    dos = np.exp(-0.5 * ((thz - 10) / 2) ** 2)
    dos *= 6 / np.trapezoid(dos, thz)
    label = phdos_columns({"dos": {"frequencies": thz, "densities": dos}}, {})
    assert label["spectrum"].shape == (51,)
    assert label["spectrum"].sum() * PHDOS_PAPER_GRID.width == pytest.approx(6, rel=0.01)
    assert PHDOS_PAPER_GRID.centers[label["spectrum"].argmax()] == pytest.approx(334, abs=10)
    assert label["imaginary"] < 1e-6


@pytest.mark.parametrize("width", [4, 8, 16, 24])  # cm^-1
@pytest.mark.parametrize("center", [300, 305, 310, 318])  # 300 is a bin's centre, 310 its edge
def test_narrow_branches_keep_their_modes(width, center):
    frequencies = np.arange(-20.0, 1100.0)
    acoustic = np.where((frequencies > 0) & (frequencies < 150), frequencies**2, 0.0)
    optical = np.where(np.abs(frequencies - center) <= width / 2, 1.0, 0.0)
    dos = sum(3 * branch / np.trapezoid(branch) for branch in (acoustic, optical))
    dos = {"frequencies": frequencies / THZ, "densities": dos * THZ}
    modes = phdos_columns({"dos": dos}, {})["spectrum"] * PHDOS_PAPER_GRID.width
    assert modes.sum() == pytest.approx(6, rel=1e-6)
    assert modes[PHDOS_PAPER_GRID.centers > 220].sum() == pytest.approx(3, abs=0.15)


def test_only_modes_in_the_range_of_the_grid_count():
    frequencies = np.arange(-500.0, 1500.0)
    inside = (frequencies > 400) & (frequencies < 600)
    outside = (frequencies < -300) | (frequencies > 1200)

    def modes(where):
        dos = {"frequencies": frequencies / THZ, "densities": where * THZ}
        return phdos_columns({"dos": dos}, {})["spectrum"].sum() * PHDOS_PAPER_GRID.width

    assert modes(inside | outside) == pytest.approx(np.trapezoid(inside * 1.0), rel=1e-6)
    assert modes(outside) == 0


def test_imaginary_modes_are_told():
    thz = np.linspace(-10, 10, 2001)
    dos = np.where(np.abs(thz) < 8, 1.0, 0.0)
    label = phdos_columns({"dos": {"frequencies": thz, "densities": dos}}, {})
    assert label["imaginary"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("dos", "reason"),
    [
        (None, "incomplete"),
        ({"frequencies": np.arange(3.0), "densities": None}, "incomplete"),
        ({"frequencies": np.arange(3.0)[::-1], "densities": np.ones(3)}, "do not increase"),
        ({"frequencies": np.arange(3.0), "densities": np.full(3, np.nan)}, "NaN"),
        ({"frequencies": np.arange(3.0), "densities": np.zeros(3)}, "zero everywhere"),
    ],
)
def test_phonon_dos_that_cannot_be_used(dos, reason):
    with pytest.raises(LeftOutError, match=reason):
        phdos_columns({"dos": dos}, {})


# --- the real client and the real table formats, on loopback --------------------------------


@cache
def structures():
    """The structures of the server's documents."""
    from tests.screening import mp_server

    return [Structure.from_dict(d["structure"]) for d in mp_server.summary_documents(300)]


def dos_of(k):
    """The DOS of document `k` of the server: every fourth one has a gap of 1 eV."""
    centres = np.random.default_rng(k).uniform(-9, 9, 6)
    dos = sum(3 * np.exp(-((ENERGIES - c) ** 2)) for c in centres) + 0.3
    dos = np.where((ENERGIES > 0) & (ENERGIES < 1), 0, dos) if k % 4 == 0 else dos
    return holding(dos, 0.2, odd=sum(structures()[k].atomic_numbers) % 2)


def run_type_of(k):
    """What pymatgen's input set of the Materials Project makes of document `k`."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    has_u = MPRelaxSet(structures()[k], user_potcar_settings={}).incar.get("LDAU", False)
    return "GGA+U" if has_u else "GGA"


def documents(n):
    from tests.screening import mp_server

    for k, document in enumerate(mp_server.summary_documents(n)):
        gap = 1.0 if k % 4 == 0 else 0.0
        document.update(
            band_gap=gap,
            vbm=0.0 if gap else None,
            cbm=1.0 if gap else None,
            dos={"task_id": f"mp-{100000 + k}", "total": {"1": {"efermi": 0.2}}},
            phonon_IDs={"dfpt": [f"mp-{500000 + k}"]},
            ordering="NM" if k % 5 else "FM",
            deprecated=False,
            builder_meta={"license": "BY-C"},
        )
        document["has_props"] = {"dos": k % 3 != 0, "phonon": k % 3 == 0}
        yield document


def alpha(number):
    from emmet.core.mpid import AlphaID

    return str(AlphaID(number, padlen=8))


def edos_table(indices, **changes):
    """Rows of the total-DOS table in the schema of emmet's documents."""
    from emmet.core.arrow import arrowize
    from emmet.core.band_theory import ElectronicDos

    schema = pa.schema([f for f in arrowize(ElectronicDos) if "proj" not in f.name])
    rows = [
        {
            "identifier": alpha(100000 + k),
            "run_type": run_type_of(k),
            "structure": structures()[k].as_dict(),
            "spin_up_densities": dos_of(k).tolist(),
            "energies": ENERGIES.tolist(),
            "efermi": 0.2,
            **changes.get(str(k), {}),
        }
        for k in indices
    ]
    return pa.Table.from_pylist(rows, schema)


@pytest.fixture(scope="module")
def store():
    """A local S3 server: the options of `deltalake` to read, those to write, and a client."""
    moto = pytest.importorskip("moto.server", reason="the object store needs moto[server]")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    secret = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **secret)
    client.create_bucket(Bucket="parsed")
    read = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true"}
    write = {
        **read,
        **{key.upper(): value for key, value in secret.items()},
        "AWS_REGION": "us-east-1",
        "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
    }
    yield read, write, client
    server.stop()


def put(store, *tables, **options):
    """Write a Delta table, one commit for each part; gives its address."""
    from deltalake import write_deltalake

    uri = f"s3a://parsed/{uuid.uuid4().hex}"
    for table in tables:
        write_deltalake(uri, table, mode="append", storage_options=store[1], **options)
    for key in keys(store, uri):
        store[2].put_object_acl(Bucket="parsed", Key=key, ACL="public-read")
    return uri


def keys(store, uri):
    listing = store[2].list_objects_v2(Bucket="parsed", Prefix=uri.removeprefix("s3a://parsed/"))
    return [o["Key"] for o in listing["Contents"]]


@pytest.fixture(scope="module")
def server():
    uri = os.environ.get("SCREEN_TEST_MONGO_URI")
    if not uri:
        pytest.skip("SCREEN_TEST_MONGO_URI is not set")
    pytest.importorskip("emmet.api", reason="the server's own code needs emmet-api")
    from tests.screening import mp_server

    with mp_server.materials_project(uri, documents(60)) as running:
        yield running[0]


WANTED = [k for k in range(60) if k % 5 and k % 3]  # nonmagnetic and with a DOS


@pytest.fixture
def edos(server, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)

    def run(table, out="edos.parquet", **options):
        return fetch_edos(
            tmp_path / out,
            **{
                "endpoint": server,
                "cache_dir": tmp_path / "cache",
                "table": table,
                "storage_options": store[0],
                "sleep": lambda s: None,
                **options,
            },
        )

    return run


@pytest.mark.mongo
def test_training_file_holds_what_the_database_has(edos, store, tmp_path):
    uri = put(store, edos_table(range(30)), edos_table(range(30, 60)), partition_by=["run_type"])
    seen = []
    report = edos(uri, progress=lambda done, total: seen.append((done, total)))
    assert report.written == len(WANTED)
    assert report.left_out == {}
    assert seen[-1] == (len(WANTED), len(WANTED))

    table = pq.read_table(report.path)
    ids = table["material_id"].to_pylist()
    assert ids == sorted(f"mp-{k + 1}" for k in WANTED)
    spectra = np.array(table["spectrum"].to_pylist())
    for material_id, spectrum in zip(ids, spectra, strict=True):
        k = int(material_id[3:]) - 1
        gap = 1.0 if k % 4 == 0 else 0.0
        vbm = 0.0 if gap else 0.2
        fine = EDOS_GRID.centers[:, None] + np.linspace(-0.5, 0.5, 1001) / 16
        fine = np.where(fine < 0, fine + vbm, fine + vbm + gap)
        expected = np.interp(fine, ENERGIES, dos_of(k)).mean(1)
        far = np.abs(EDOS_GRID.centers) > 0.1
        np.testing.assert_allclose(spectrum[far], expected[far], atol=0.01)
    assert table["run_type"].to_pylist() == [run_type_of(int(i[3:]) - 1) for i in ids]
    metadata = table.schema.metadata
    assert EnergyGrid.model_validate_json(metadata[b"grid"]) == EDOS_GRID
    assert metadata[b"database_version"] == b"2026.11.01"
    assert b"CC BY 4.0" in metadata[b"attribution"]
    # the file is a source of structures as well
    assert [c.material_id for c in open_source(report.path)] == ids


@pytest.mark.mongo
def test_fetch_that_is_killed_ends_with_the_same_file(edos, server, store, tmp_path):
    tables = [edos_table(range(k, k + 10)) for k in range(0, 60, 10)]
    uri = put(store, *tables)
    undisturbed = edos(uri, out="one.parquet").path

    script = f"""
import os, signal
from pathlib import Path
from screening.training_sets.edos import fetch_edos

def die(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

fetch_edos(
    Path({str(tmp_path / "two.parquet")!r}), endpoint={server!r}, table={uri!r},
    cache_dir=Path({str(tmp_path / "cache")!r}), storage_options={store[0]!r}, progress=die,
)
"""
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=False
    )
    assert child.returncode == -signal.SIGKILL
    parts = list((tmp_path / "two.parquet.parts").glob("*.parquet"))
    assert 1 <= len(parts) < 6
    parts[0].write_bytes(parts[0].read_bytes()[:200])  # half-written by the crash
    resumed = edos(uri, out="two.parquet").path
    checksums = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (undisturbed, resumed)}
    assert len(checksums) == 1
    assert not (tmp_path / "two.parquet.parts").exists()


@pytest.mark.mongo
def test_what_has_been_read_is_not_read_again(edos, store, tmp_path, monkeypatch):
    uri = put(store, *[edos_table(range(k, k + 20)) for k in range(0, 60, 20)])
    read = []
    original = SpectraTable.read

    def counting(table, file, *args):
        read.append(file.path)
        if len(read) == 3:
            raise ScreeningError("the network is gone")
        return original(table, file, *args)

    monkeypatch.setattr(SpectraTable, "read", counting)
    with pytest.raises(ScreeningError, match="gone"):
        edos(uri)
    edos(uri)
    assert len(read) == 4
    assert read[3] == read[2]


@pytest.mark.mongo
def test_unusable_dos_are_counted_by_reason(edos, store):
    a, b, c, d = 2, 4, 8, 7
    changes = {
        str(a): {"spin_down_densities": (0.5 * dos_of(a)).tolist()},
        str(b): {"energies": ENERGIES[::-1].tolist()},
        str(c): {"spin_up_densities": [float("nan")] * 2001},
        str(d): {"energies": np.linspace(-2, 2, 2001).tolist()},
    }
    present = [k for k in range(60) if k != WANTED[0]]
    report = edos(put(store, edos_table(present, **changes)))
    assert report.left_out == {
        "DOS does not cover 4 eV on either side of the band edges": 1,
        "NaN in the DOS": 1,
        "energies that do not increase": 1,
        "no DOS in the table": 1,
        "spin channels of a magnetic calculation": 1,
    }
    assert report.written == len(WANTED) - 5
    assert json.loads(pq.read_schema(report.path).metadata[b"left_out"]) == report.left_out


@pytest.mark.mongo
def test_truncated_file_of_the_table_is_named(edos, store, tmp_path):
    uri = put(store, edos_table(range(30)), edos_table(range(30, 60)))
    client = store[2]
    victim = next(k for k in keys(store, uri) if k.endswith(".parquet"))
    whole = client.get_object(Bucket="parsed", Key=victim)["Body"].read()
    client.put_object(Bucket="parsed", Key=victim, Body=whole[: len(whole) // 2], ACL="public-read")
    naps = []
    with pytest.raises(ScreeningError, match=f"cannot read {victim.split('/')[-1]}") as e:
        edos(uri, sleep=naps.append)
    assert naps == [2, 4, 8]
    assert "\n" not in str(e.value)
    client.put_object(Bucket="parsed", Key=victim, Body=whole, ACL="public-read")
    assert edos(uri).written == len(WANTED)


@pytest.mark.mongo
def test_one_more_column_does_no_harm_and_one_less_is_named(edos, store):
    table = edos_table(range(60))
    more = table.append_column("tomorrow", pa.array(["x"] * 60))
    assert edos(put(store, more)).written == len(WANTED)
    with pytest.raises(ScreeningError, match="has no column efermi"):
        edos(put(store, table.drop_columns(["efermi"])), out="less.parquet")


@pytest.mark.mongo
def test_table_that_is_not_there(edos):
    with pytest.raises(ScreeningError, match=r"no such table|cannot open the table"):
        edos("s3a://parsed/nothing")


@pytest.mark.mongo
def test_out_that_cannot_be_written(edos, store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScreeningError, match="cannot write"):
        edos(put(store, edos_table(range(60))), out="file/edos.parquet")


@pytest.mark.mongo
def test_phonon_training_file(server, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)
    thz = np.linspace(0, 30, 601).tolist()
    densities = np.exp(-((np.array(thz) - 10) ** 2)).tolist()
    rows = [
        {
            "identifier": alpha(500000 + k),
            "phonon_method": method,
            "dos": {"frequencies": thz, "densities": densities},
        }
        for k in range(60)
        for method in ("dfpt", "pheasy")
    ]
    report = fetch_phdos(
        tmp_path / "phdos.parquet",
        endpoint=server,
        cache_dir=tmp_path,
        table=put(store, pa.Table.from_pylist(rows)),
        storage_options=store[0],
    )
    table = pq.read_table(report.path)
    assert table["material_id"].to_pylist() == sorted(f"mp-{k + 1}" for k in range(0, 60, 3))
    assert {len(s) for s in table["spectrum"].to_pylist()} == {51}
    assert report.left_out == {}
