"""What makes a file of labels unusable, with all the ids; and labels that have no scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.crystal import Crystal
from models.data.dataset import edos_dataset, phdos_dataset, refuse_settings, usable_settings
from models.data.label_files import edos_labels, phdos_labels, read_crystals
from models.errors import ModelError, named
from models.spectra.spectrum import EDOS_GRID, sum_normalized
from models.training import settings
from models.training.config import TrainingConfig
from models.training.train import train_predictor
from tests.models.model_examples import (
    bin_averages,
    edos_label,
    label_row,
    rocksalt,
    structure_row,
    write_edos_files,
    write_rows,
)


def structures(folder: Path, ids: list[str]) -> Path:
    return write_rows(folder / "structures.parquet", [structure_row(i, rocksalt()) for i in ids])


def test_a_handful_of_ids_is_named_and_more_are_counted() -> None:
    assert named(["a"]) == "a"
    assert named(list("abcde")) == "a, b, c, d, e"
    assert named(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_all_bad_labels_of_a_file_are_named_by_what_is_wrong(tmp_path: Path) -> None:
    good = edos_label()
    nan, negative = (np.where(np.arange(1200) == 600, bad, good) for bad in (np.nan, -1.0))
    rows = [label_row("good", good)]
    rows += [label_row(f"nan-{i}", nan) for i in range(7)]
    rows += [
        label_row("minus", negative),
        label_row("zero", 0 * good),
        label_row("short", good[1:]),
    ]
    rows += [label_row("good", good), label_row("gapless", good, band_gap=None)]
    file = write_rows(tmp_path / "labels.parquet", rows)
    with pytest.raises(ModelError) as caught:
        edos_labels([file], structures(tmp_path, ["good"]))
    assert str(caught.value) == (
        f"{file}: NaN or infinity: nan-0, nan-1, nan-2, nan-3, nan-4 and 2 more; "
        "negative DOS: minus; zero everywhere: zero; not 1200 numbers: short; "
        "more than once: good; no band_gap or emax: gapless"
    )


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], "column material_id must be text, it is int64"),
        ([None, None], "column material_id must be text, it is null"),
        (["a", None, "b", None], "no material_id: row 2, row 4"),
    ],
)
def test_ids_are_text_in_every_row(tmp_path: Path, ids: list[Any], message: str) -> None:
    labels = write_rows(tmp_path / "labels.parquet", [label_row(i, edos_label()) for i in ids])
    phonons = [structure_row(i, rocksalt()) | {"phdos": [1.0] * 66} for i in ids]
    phonons = write_rows(tmp_path / "phonons.parquet", phonons)
    with pytest.raises(ModelError) as caught:
        edos_labels([labels], structures(tmp_path, ["a", "b"]))
    assert str(caught.value) == f"{labels}: {message}"
    with pytest.raises(ModelError) as caught:
        phdos_labels(phonons)
    assert str(caught.value) == f"{phonons}: {message}"


def test_text_of_any_kind_is_an_id(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "labels.parquet", [label_row("a", edos_label())])
    table = pq.read_table(file)
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        ids = table["material_id"].combine_chunks().cast(kind)
        pq.write_table(table.set_column(0, "material_id", ids), file)
        assert edos_labels([file], structures(tmp_path, ["a"])).spectra.keys() == {"a"}


def test_all_bad_phonon_labels_are_named(tmp_path: Path) -> None:
    good = np.exp(-(((np.arange(66) - 30) / 5.0) ** 2))
    labels = {"a": good, "b": -good, "c": 0 * good, "d": good * np.nan}
    rows = [structure_row(i, rocksalt()) | {"phdos": v.tolist()} for i, v in labels.items()]
    file = write_rows(tmp_path / "p.parquet", [*rows, rows[0]])
    with pytest.raises(ModelError) as caught:
        phdos_labels(file)
    assert str(caught.value) == (
        f"{file}: negative DOS: b; zero everywhere: c; NaN or infinity: d; more than once: a"
    )


def test_all_labels_without_structure_are_named(tmp_path: Path) -> None:
    rows = [label_row(f"x-{i}", edos_label(i)) for i in range(9)]
    file = write_rows(tmp_path / "labels.parquet", rows)
    with pytest.raises(ModelError, match=r"x-1, x-2, x-3, x-5, x-6 and 2 more$"):
        edos_labels([file], structures(tmp_path, ["x-0", "x-4"]))


def test_an_incomplete_label_needs_no_structure(tmp_path: Path) -> None:
    rows = [label_row("a", edos_label()), label_row("b", edos_label(), emax=3.0)]
    file = write_rows(tmp_path / "labels.parquet", rows)
    labels = edos_labels([file], structures(tmp_path, ["a"]))
    assert labels.spectra.keys() == labels.crystals.keys() == {"a"}
    assert labels.left_out == {"b": "DOS is complete only up to 3.05 eV"}


def test_bands_that_overlap_do_not_make_a_label_complete(tmp_path: Path) -> None:
    dos = edos_label()
    rows = [label_row(name, dos, band_gap=gap, emax=3.6) for name, gap in (("a", 0.0), ("b", -0.5))]
    labels = edos_labels(
        [write_rows(tmp_path / "l.parquet", rows)], structures(tmp_path, ["a", "b"])
    )
    assert set(labels.left_out.values()) == {"DOS is complete only up to 3.65 eV"}
    assert not labels.crystals


def test_a_label_that_cannot_be_used_gives_way_to_another(tmp_path: Path) -> None:
    first = write_rows(
        tmp_path / "a.parquet", [label_row(i, edos_label(), emax=3.0) for i in ("a", "b")]
    )
    second = write_rows(tmp_path / "b.parquet", [label_row("a", edos_label())])
    labels = edos_labels([first, second], structures(tmp_path, ["a", "b"]))
    assert labels.spectra.keys() == {"a"}
    assert labels.left_out.keys() == {"b"}


def test_crystals_are_read_as_far_as_they_can_be_used(tmp_path: Path) -> None:
    flat = structure_row("flat", rocksalt()) | {"lattice": [0.0] * 9}
    rows = [structure_row("a", rocksalt()), flat, structure_row("b", rocksalt())]
    file = write_rows(tmp_path / "s.parquet", rows)
    assert read_crystals(file, {"a", "flat", "none"}).keys() == {"a"}


# Labels without a scale.

ENERGIES = np.linspace(-12.0, 9.0, 2001)
NACL = rocksalt()


def shape_row(
    material_id: str, dos: np.ndarray, crystal: Crystal = NACL, **changes: Any
) -> dict[str, Any]:
    row = structure_row(material_id, crystal)
    return row | {"energies": ENERGIES.tolist(), "dos": dos.tolist()} | changes


def metal(peak: float = -2.0) -> np.ndarray:
    return 0.2 + np.exp(-(((ENERGIES - peak) / 0.7) ** 2))


def test_shapes_are_sum_normalised_on_the_grid(tmp_path: Path) -> None:
    rows = [shape_row("a", metal()), shape_row("b", 40 * metal(1.0))]
    dataset = edos_dataset([write_rows(tmp_path / "s.parquet", rows)])
    for spectrum, peak in zip(dataset.spectra.numpy(), (-2.0, 1.0), strict=True):
        averages = bin_averages(ENERGIES, metal(peak), EDOS_GRID.edges)
        np.testing.assert_allclose(spectrum, sum_normalized(averages), rtol=1e-5)
    assert (dataset.shapes_only, dataset.extensive) == (True, False)
    assert dataset.subset([0]).shapes_only


def test_the_gap_of_a_shape_is_cut_out_wherever_the_fermi_level_is(tmp_path: Path) -> None:
    gapped = np.where((ENERGIES > -0.5) & (ENERGIES < 1.5), 0.0, 3.0)
    rows = [shape_row("a", gapped), shape_row("b", 1e-3 * gapped)]
    spectra = edos_labels([write_rows(tmp_path / "s.parquet", rows)]).spectra
    np.testing.assert_allclose(spectra["a"], spectra["b"], rtol=1e-9)
    # The edges are found to a step of the energies, a sixth of a bin.
    np.testing.assert_allclose(np.delete(spectra["a"], [63, 64]), 1 / 128, rtol=5e-3)


def test_what_shapes_are_left_out_and_why(tmp_path: Path) -> None:
    def of(*numbers: int) -> Crystal:
        sites = [[0.5 * i, 0.0, 0.0] for i in range(len(numbers))]
        return Crystal(4.0 * np.eye(3), sites, numbers)

    insulator = np.where((ENERGIES > 0) & (ENERGIES < 6.0), 0.0, 1.0)
    rows = [
        shape_row("good", metal()),
        shape_row("oxide", metal(), of(12, 8)),
        shape_row("oxygen", metal(), of(8)),
        shape_row("iron", metal(), of(26)),
        shape_row("gadolinium", metal(), of(64, 8)),
        shape_row("lutetium", metal(), of(71)),
        shape_row("uranium", metal(), of(92)),
        shape_row("insulator", insulator),
        shape_row("late", metal()[800:], energies=ENERGIES[800:].tolist()),
        shape_row("filled", np.where(ENERGIES > 0, 0.0, 1.0)),
    ]
    labels = edos_labels([write_rows(tmp_path / "s.parquet", rows)])
    assert labels.spectra.keys() == {"good", "oxide", "lutetium"}
    assert labels.left_out == {
        "oxygen": "oxygen molecules are magnetic",
        "iron": "Fe is magnetic",
        "gadolinium": "Gd is a lanthanide",
        "uranium": "U is an actinide",
        "insulator": "DOS is complete only up to 9.00 eV",
        "late": "DOS begins only at -3.60 eV",
        "filled": "DOS has no states on one side of the Fermi level",
    }


def test_bad_shapes_are_named(tmp_path: Path) -> None:
    rows = [
        shape_row("nan", metal() * np.nan),
        shape_row("minus", -metal()),
        shape_row("zero", 0 * metal()),
        shape_row("short", metal()[1:]),
        shape_row("falling", metal(), energies=ENERGIES[::-1].tolist()),
    ]
    file = write_rows(tmp_path / "s.parquet", rows)
    with pytest.raises(ModelError) as caught:
        edos_labels([file])
    assert str(caught.value) == (
        f"{file}: NaN or infinity: nan; negative DOS: minus; zero everywhere: zero; "
        "not 2001 numbers: short; energies that do not increase: falling"
    )


def test_labels_with_a_scale_become_shapes_beside_shapes(tmp_path: Path) -> None:
    labels, crystals = write_edos_files(tmp_path, n=3)
    mine = write_rows(
        tmp_path / "shapes.parquet",
        [shape_row("x-0", metal()), shape_row("new", metal())],
    )
    alone = edos_dataset([labels], crystals)
    both = edos_dataset([labels, mine], crystals)
    assert both.material_ids == ("new", "x-0", "x-1", "x-2")
    expected = sum_normalized(alone.spectra.numpy())
    np.testing.assert_allclose(both.spectra[1:], expected, rtol=1e-5)  # the first label counts
    swapped = edos_dataset([mine, labels], crystals)
    np.testing.assert_allclose(swapped.spectra[1], both.spectra[0], rtol=1e-5)


def test_shapes_are_for_sumnorm_settings_only(tmp_path: Path) -> None:
    shapes = edos_dataset([write_rows(tmp_path / "s.parquet", [shape_row("a", metal())])])
    assert usable_settings(shapes) == ("sumnorm-wd", "sumnorm-kl")
    refuse_settings(shapes, ["sumnorm-kl", "sumnorm-wd"])
    for setting in ("standard-mae", "maxnorm-mse"):
        with pytest.raises(ModelError, match=f"{setting}: labels without a scale train sumnorm-wd"):
            refuse_settings(shapes, ["sumnorm-kl", setting])
    labels, crystals = write_edos_files(tmp_path, n=2)
    refuse_settings(edos_dataset([labels], crystals), ["standard-mae", "maxnorm-mse"])


def test_a_predictor_of_shapes_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(settings, "train_setting")
    rows = [shape_row(f"s-{i}", metal()) for i in range(40)]
    file = write_rows(tmp_path / "s.parquet", rows)
    config = TrainingConfig(name="t", labels=[file], settings=["sumnorm-kl", "standard-mae"])
    with pytest.raises(ModelError, match="standard-mae: labels without a scale"):
        train_predictor(config)


def test_shapes_may_have_their_structures_elsewhere(tmp_path: Path) -> None:
    row = shape_row("a", metal())
    del row["lattice"], row["frac_coords"]
    file = write_rows(tmp_path / "s.parquet", [row])
    with pytest.raises(ModelError, match="the field structures is needed"):
        edos_dataset([file])
    assert edos_dataset([file], structures(tmp_path, ["a"])).material_ids == ("a",)


@pytest.mark.data
def test_the_elements_of_the_reference_data(data_folder: Path) -> None:
    dataset = edos_dataset([data_folder / "edos_mp_elements.parquet"])
    assert len(dataset) + len(dataset.left_out) == 104
    assert set(dataset.elements).isdisjoint({"O", "Co", "Gd", "U"})
    np.testing.assert_allclose(dataset.spectra.sum(1), 1, rtol=1e-5)
    phonons = phdos_dataset(data_folder / "phdos_jarvis.parquet")
    assert not phonons.shapes_only
