"""What a teacher labels, and that nothing takes it for DFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.data.dataset import edos_dataset, taught_dataset
from models.data.label_files import Teacher, taught_labels, teacher_of
from models.errors import ModelError
from models.predictor import SpectrumPredictor
from models.spectra.spectrum import EDOS_GRID
from models.training.card import ModelCard
from screening.errors import ScreeningError
from screening.sources import open_source
from screening.training_sets import distillation
from screening.training_sets.distillation import distill
from tests.conftest import crystal_row

NAME = "mat2spec-edos"  # any predictor can teach
KNOWN = [("Na", "Cl"), ("Mg", "O"), ("Al", "Ni"), ("K", "Br"), ("Al", "Mg")]


@pytest.fixture(scope="module")
def teacher() -> SpectrumPredictor:
    return SpectrumPredictor.load(NAME, device="cpu")


@pytest.fixture
def table(structure_table) -> Path:
    rows = [crystal_row(f"m-{i}", 3.8 + 0.01 * i, KNOWN[i % 5]) for i in range(20)]
    rows.append(crystal_row("doubled", 4.0, ("Na", "Na")))  # two cells of one atom
    rows.append(crystal_row("unseen", 4.0, ("Na", "Pu")))
    rows.append(crystal_row("large", 9.0, ("Na", "Mg", "Al", "Na", "Na")))
    return structure_table(rows)


def labels_in(path: Path) -> dict[str, list[float]]:
    rows = pq.read_table(path, columns=["material_id", "spectrum"]).to_pylist()
    return {row["material_id"]: row["spectrum"] for row in rows}


def test_labels_are_what_the_teacher_predicts(tmp_path: Path, table: Path, teacher) -> None:
    report = distill(open_source(table), tmp_path / "t.parquet", teacher, max_sites=4)
    labels = labels_in(report.path)
    assert report.left_out == {
        "the teacher was not trained on Ni": 4,
        "the teacher was not trained on Pu": 1,
        "more than 4 atoms in the cell": 1,
    }
    assert report.written == len(labels) == 17
    dataset = taught_dataset(report.path)
    assert dataset.material_ids == tuple(sorted(labels))
    crystals = taught_labels(report.path).crystals
    assert len(crystals["doubled"]) == 1
    again = teacher.predict([crystals[i] for i in dataset.material_ids]).values
    np.testing.assert_allclose(dataset.spectra.numpy(), again, rtol=1e-5)


def test_the_file_says_whose_labels_these_are(tmp_path: Path, table: Path, teacher) -> None:
    path = distill(open_source(table), tmp_path / "t.parquet", teacher).path
    card = ModelCard.read(teacher.folder)
    assert teacher_of(path) == Teacher(
        model_id=teacher.model_id, split_seed=card.split_seed, split_by=card.split_by
    )
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"grid"]) == EDOS_GRID.model_dump()
    assert json.loads(metadata[b"source"])["fingerprint"] == open_source(table).fingerprint
    with pytest.raises(ModelError, match=r"t\.parquet: its labels are those of a teacher \(mat2s"):
        edos_dataset([path])


def test_other_labels_are_not_those_of_a_teacher(tmp_path: Path, table: Path, teacher) -> None:
    path = distill(open_source(table), tmp_path / "t.parquet", teacher).path
    unnamed = pq.read_table(path)
    metadata = {k: v for k, v in unnamed.schema.metadata.items() if k != b"teacher"}
    pq.write_table(unnamed.replace_schema_metadata(metadata), tmp_path / "u.parquet")
    assert teacher_of(tmp_path / "u.parquet") is None
    with pytest.raises(ModelError, match="not labels of a teacher as `screen distill` writes them"):
        taught_labels(tmp_path / "u.parquet")
    metadata[b"teacher"] = b"{}"
    pq.write_table(unnamed.replace_schema_metadata(metadata), tmp_path / "w.parquet")
    with pytest.raises(ModelError, match=r"w\.parquet, teacher: model_id: Field required"):
        taught_labels(tmp_path / "w.parquet")


def test_what_was_interrupted_goes_on(
    tmp_path: Path, table: Path, teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "PART", 5)
    source, whole = open_source(table), tmp_path / "whole.parquet"
    distill(source, whole, teacher)
    asked: list[int] = []

    def interrupted_in(call: int) -> Callable[..., object]:
        predict = SpectrumPredictor.predict

        def count(self, structures, **options):
            asked.append(len(structures))
            if len(asked) == call:
                raise KeyboardInterrupt
            return predict(self, structures, **options)

        return count

    out = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(SpectrumPredictor, "predict", interrupted_in(3))
        with pytest.raises(KeyboardInterrupt):
            distill(source, out, teacher)
    assert not out.exists()
    asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(SpectrumPredictor, "predict", interrupted_in(0))
        report = distill(source, out, teacher)
    assert len(asked) == 3  # of five parts
    assert labels_in(out) == labels_in(whole)
    assert report.written == len(labels_in(whole))
    assert [p.name for p in tmp_path.glob("t.parquet*")] == ["t.parquet"]


def test_another_teacher_begins_anew(
    tmp_path: Path, table: Path, teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, source = tmp_path / "t.parquet", open_source(table)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(source, out, teacher, progress=stop)
    assert list(tmp_path.glob("t.parquet.parts/*.parquet"))
    other = SpectrumPredictor.load("mat2spec-plus-edos", device="cpu")
    distill(source, out, other)
    expected = distill(source, tmp_path / "o.parquet", other)
    assert labels_in(out) == labels_in(expected.path)


def test_no_structure_with_a_label_is_an_error(tmp_path: Path, structure_table, teacher) -> None:
    source = open_source(structure_table([crystal_row("a", 4.0, ("Pu", "U"))]))
    with pytest.raises(ScreeningError, match=r"no structure gets a label \(1 the teacher was not"):
        distill(source, tmp_path / "t.parquet", teacher)
    assert not (tmp_path / "t.parquet").exists()
