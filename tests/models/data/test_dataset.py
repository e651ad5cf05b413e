from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.crystal import Crystal
from models.data.dataset import edos_dataset, phdos_dataset
from models.data.label_files import LABEL_EDGES
from models.errors import ModelError
from models.spectra.spectrum import (
    EDOS_GRID,
    PHDOS_GRID,
    PHDOS_PAPER_GRID,
    EnergyGrid,
)
from tests.models.model_examples import (
    bin_averages,
    edos_label,
    label_row,
    labelled_crystals,
    rocksalt,
    small_dataset,
    structure_row,
    write_edos_files,
    write_rows,
)


def files(tmp_path: Path, labels: list[dict], structures: list[dict] | None = None) -> tuple:
    structures = structures or [structure_row("x-0", rocksalt())]
    return (
        [write_rows(tmp_path / "labels.parquet", labels)],
        write_rows(tmp_path / "structures.parquet", structures),
    )


def test_labels_meet_their_structures(tmp_path: Path) -> None:
    labels, structures = write_edos_files(tmp_path, n=5)
    dataset = edos_dataset([labels], structures)
    assert sorted(dataset.material_ids) == [f"x-{i}" for i in range(5)]
    crystals = {f"x-{i}": c for i, c in enumerate(labelled_crystals(5))}
    for row, material_id in enumerate(dataset.material_ids):
        one = dataset.graphs.select(torch.tensor([row]))
        atoms = one.atomic_numbers.repeat_interleave(one.multiplicity.long())
        assert sorted(atoms.tolist()) == sorted(crystals[material_id].atomic_numbers.tolist())
        assert dataset.formulas[row] == crystals[material_id].formula
        expected = bin_averages(LABEL_EDGES, edos_label(int(material_id[2:])), EDOS_GRID.edges)
        np.testing.assert_allclose(dataset.spectra[row], expected, rtol=1e-5)
    assert dataset.left_out == {}


def test_the_gap_of_a_label_is_cut_out(tmp_path: Path) -> None:
    centers = (LABEL_EDGES[1:] + LABEL_EDGES[:-1]) / 2
    dos = np.where((centers > 0) & (centers < 2.0), 0.0, 3.0)
    labels, structures = files(tmp_path, [label_row("x-0", dos, band_gap=2.0)])
    np.testing.assert_allclose(edos_dataset(labels, structures).spectra[0], 3.0, rtol=1e-5)


def test_what_the_step_of_an_edge_holds_in_the_gap_is_next_to_the_gap(tmp_path: Path) -> None:
    """A gap of 2.015 eV ends within a step, over all of which the label spreads its states."""
    centers = (LABEL_EDGES[1:] + LABEL_EDGES[:-1]) / 2
    dos = np.where((centers > 0) & (centers < 2.0), 0.0, 3.0)
    labels, structures = files(tmp_path, [label_row("x-0", dos, band_gap=2.015)])
    spectrum = edos_dataset(labels, structures).spectra[0].numpy()
    expected = np.full(128, 3.0)
    expected[64] += 3.0 * 0.015 / EDOS_GRID.width
    np.testing.assert_allclose(spectrum, expected, rtol=1e-5)


def test_a_negative_gap_is_a_metal(tmp_path: Path) -> None:
    labels, structures = files(tmp_path, [label_row("x-0", edos_label(), band_gap=-0.3)])
    expected = bin_averages(LABEL_EDGES, edos_label(), EDOS_GRID.edges)
    np.testing.assert_allclose(edos_dataset(labels, structures).spectra[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("dos", "message"),
    [
        (np.where(np.arange(1200) == 600, np.nan, 1.0), "NaN or infinity: x-0$"),
        (np.where(np.arange(1200) == 600, -0.1, 1.0), "negative DOS: x-0$"),
        (np.where(np.arange(1200) < 100, 1.0, 0.0), "zero everywhere: x-0$"),
        (np.ones(1199), "not 1200 numbers: x-0$"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, dos: np.ndarray, message: str) -> None:
    labels, structures = files(tmp_path, [label_row("x-0", dos)])
    with pytest.raises(ModelError, match=message):
        edos_dataset(labels, structures)


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    good, dos = rocksalt(), edos_label()
    labels, structures = files(
        tmp_path,
        [
            label_row("good", dos),
            label_row("cut-off", dos, emax=3.0),
            label_row("wide-gap", dos, emax=9.9, band_gap=7.0),
            label_row("lonely", dos),
            label_row("flat", dos),
        ],
        [
            structure_row("good", good),
            structure_row("cut-off", good),
            structure_row("wide-gap", good),
            structure_row("lonely", Crystal(20 * np.eye(3), [[0, 0, 0]], [3])),
            structure_row("flat", good) | {"lattice": [0.0] * 9},
        ],
    )
    dataset = edos_dataset(labels, structures)
    assert dataset.material_ids == ("good",)
    assert dataset.left_out == {
        "cut-off": "DOS is complete only up to 3.05 eV",
        "wide-gap": "DOS is complete only up to 9.95 eV",
        "lonely": "isolated atoms",
        "flat": "cell has no volume",
    }


def test_the_first_label_of_an_id_counts_across_files(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.parquet", [label_row("x-0", np.full(1200, 2.0))])
    second = write_rows(tmp_path / "b.parquet", [label_row("x-0", np.full(1200, 5.0))])
    structures = write_rows(tmp_path / "s.parquet", [structure_row("x-0", rocksalt())])
    assert edos_dataset([first, second], structures).spectra.max() == pytest.approx(2.0)
    assert edos_dataset([second, first], structures).spectra.max() == pytest.approx(5.0)


def test_an_id_twice_in_one_file_is_refused(tmp_path: Path) -> None:
    rows = [label_row("x-0", edos_label(0)), label_row("x-0", edos_label(1))]
    labels, structures = files(tmp_path, rows)
    with pytest.raises(ModelError, match=r"labels.parquet: more than once: x-0$"):
        edos_dataset(labels, structures)


@pytest.mark.parametrize("column", ["material_id", "band_gap", "emax", "dos"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    row = label_row("x-0", edos_label())
    del row[column]
    labels, structures = files(tmp_path, [row])
    with pytest.raises(ModelError, match=f"labels.parquet: column {column} is missing"):
        edos_dataset(labels, structures)


def test_a_file_that_is_missing_or_not_parquet_is_named(tmp_path: Path) -> None:
    _, structures = write_edos_files(tmp_path, n=2)
    with pytest.raises(ModelError, match=r"none.parquet: cannot be read"):
        edos_dataset([tmp_path / "none.parquet"], structures)
    text = tmp_path / "text.parquet"
    text.write_text("not a table")
    with pytest.raises(ModelError, match=r"text.parquet: cannot be read as parquet"):
        edos_dataset([text], structures)


def test_labels_of_another_source_are_refused(tmp_path: Path) -> None:
    labels, structures = files(tmp_path, [label_row("y-0", edos_label())])
    with pytest.raises(
        ModelError, match=r"labels.parquet: no structure in structures.parquet: y-0$"
    ):
        edos_dataset(labels, structures)


def test_a_subset_has_the_chosen_rows() -> None:
    dataset = small_dataset(10)
    subset = dataset.subset([7, 2])
    assert subset.material_ids == ("x-007", "x-002")
    assert torch.equal(subset.spectra, dataset.spectra[[7, 2]])
    assert torch.equal(subset.graphs.n_atoms, dataset.graphs.n_atoms[[7, 2]])


def phonon_row(material_id: str, phdos: np.ndarray, split: str | None = None) -> dict:
    row = structure_row(material_id, rocksalt()) | {"phdos": phdos.tolist()}
    return row if split is None else row | {"split": split}


def phonons(peak: float) -> np.ndarray:
    return np.exp(-(((PHDOS_GRID.centers - peak) / 60) ** 2))


def test_phonon_labels_are_max_normalised_and_intensive(tmp_path: Path) -> None:
    rows = [phonon_row("a", 7 * phonons(200), "train"), phonon_row("b", phonons(600), "val")]
    dataset = phdos_dataset(write_rows(tmp_path / "p.parquet", rows))
    np.testing.assert_allclose(dataset.spectra[0], phonons(200) / phonons(200).max(), atol=1e-6)
    assert (dataset.extensive, dataset.parts, dataset.grid) == (False, ("train", "val"), PHDOS_GRID)
    assert dataset.subset([1]).parts == ("val",)
    assert not dataset.subset([1]).extensive


def test_the_papers_phonon_grid_has_no_imaginary_modes(tmp_path: Path) -> None:
    rows = [phonon_row("a", phonons(400) + 3 * phonons(-200)), phonon_row("b", phonons(-290))]
    rows[1]["phdos"][15:] = [0.0] * 51
    dataset = phdos_dataset(write_rows(tmp_path / "p.parquet", rows), PHDOS_PAPER_GRID)
    assert dataset.spectra.shape == (1, 51)
    assert PHDOS_PAPER_GRID.centers[dataset.spectra[0].argmax()] == 400
    assert dataset.spectra.max() == 1
    assert dataset.left_out == {"b": "no modes above 0 cm^-1"}
    assert dataset.parts == ()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full(66, np.nan), "NaN or infinity: a$"),
        (-phonons(200), "negative DOS: a$"),
        (np.zeros(66), "zero everywhere: a$"),
        (np.ones(51), "not 66 numbers: a$"),
    ],
)
def test_bad_phonon_labels_are_named(tmp_path: Path, label: np.ndarray, message: str) -> None:
    file = write_rows(tmp_path / "p.parquet", [phonon_row("a", label)])
    with pytest.raises(ModelError, match=message):
        phdos_dataset(file)


def test_phonon_materials_without_a_graph_are_left_out(tmp_path: Path) -> None:
    bad = phonon_row("bad", phonons(100)) | {"lattice": [0.0] * 9}
    lonely = phonon_row("lonely", phonons(100)) | {"lattice": (40 * np.eye(3)).ravel().tolist()}
    file = write_rows(tmp_path / "p.parquet", [phonon_row("a", phonons(300)), bad, lonely])
    dataset = phdos_dataset(file)
    assert dataset.material_ids == ("a",)
    assert dataset.left_out.keys() == {"bad", "lonely"}
    with pytest.raises(ModelError, match="no material can be used"):
        phdos_dataset(write_rows(tmp_path / "q.parquet", [bad]))


def test_another_phonon_grid_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "p.parquet", [phonon_row("a", phonons(300))])
    for start, size in ((-5.0, 51), (-330.0, 66), (-310.0, 70)):
        grid = EnergyGrid(start=start, width=20.0, size=size, unit="cm^-1")
        with pytest.raises(ModelError, match="phonon labels have no grid of"):
            phdos_dataset(file, grid)


@pytest.mark.slow
@pytest.mark.data
def test_the_reference_data(data_folder: Path) -> None:
    phonon = phdos_dataset(data_folder / "phdos_jarvis.parquet")
    assert (len(phonon), phonon.parts.count("val"), phonon.left_out) == (605, 66, {})
    paper = phdos_dataset(data_folder / "phdos_jarvis.parquet", PHDOS_PAPER_GRID)
    assert paper.spectra.shape[1] == 51
    edos = edos_dataset([data_folder / "edos_gpaw.parquet"], data_folder / "mp_snapshot.parquet")
    assert len(edos) > 250
    assert (edos.spectra >= 0).all()
