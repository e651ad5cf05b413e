"""Labels of a teacher: what a slow predictor says of structures that have no DFT DOS.

A fast predictor learns from these first and from DFT labels then (`teacher` in
:class:`models.training.config.TrainingConfig`), so that it sees tens of thousands of materials
where DFT has labelled hundreds. The file says whose labels these are: nothing takes them for DFT's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.data import chemical_symbols

from db.collections import batched
from models.crystal import Crystal
from models.data.label_files import SPECTRUM, TEACHER, Teacher
from models.data.label_rules import Origin, why_forbidden
from models.data.splits import part_of
from models.training.card import ModelCard
from models.writing import replacing
from screening.candidate import Candidate, SourceItem, Unreadable
from screening.errors import ScreeningError, one_line
from screening.sources import Source
from screening.table_parts import TableParts
from screening.training_sets.substitution import Substitutions

if TYPE_CHECKING:
    import pyarrow as pa

    from models.predictor import SpectrumPredictor

PART = 500  # structures that are labelled and kept at a time

Row = dict[str, Any]


@dataclass(frozen=True)
class DistillReport:
    """What became of the structures.

    Parameters
    ----------
    path : Path
    teacher : str
        Id of the model.
    written : int
        Labels in the file.
    left_out : dict of str to int
        Structures without a label, by reason.
    """

    path: Path
    teacher: str
    written: int
    left_out: dict[str, int]


def distill(
    source: Source,
    out: Path,
    predictor: SpectrumPredictor,
    *,
    max_sites: int | None = None,
    limit: int | None = None,
    substituted: int = 0,
    workers: int = 1,
    progress: Callable[[int, int | None], object] | None = None,
) -> DistillReport:
    """Label all structures of a source; called again, it goes on where it was interrupted.

    Structures are labelled in their primitive cells. There is no label for one that the source
    calls magnetic or :mod:`models.data.label_rules` has no label of, or with an element that the
    teacher was not trained on.

    Parameters
    ----------
    source : Source
    out : Path
        Parquet file to write: structures, and `spectrum` in states/eV/cell.
    predictor : SpectrumPredictor
        The teacher, with its model card: the card says which materials it was tested on, and
        these no student may learn from either.
    max_sites : int, optional
        Most atoms in the primitive cell.
    limit : int, optional
        Of structures read.
    substituted : int
        So many crystals are made of each structure that a student may learn of, and labelled, too
        (:mod:`screening.training_sets.substitution`).
    workers : int
        Processes.
    progress : callable, optional
        Called with the structures that are done and those that are expected, if that is known.

    Raises
    ------
    ScreeningError
        In one line, if no structure gets a label or the file cannot be written.
    """
    card = ModelCard.read(predictor.folder)
    teacher = Teacher(
        model_id=predictor.model_id, split_seed=card.split_seed, split_by=card.split_by
    )
    parts = TableParts(out.with_name(f"{out.name}.parts"), _schema)
    mark = [teacher.model_dump(), source.fingerprint, max_sites, limit, PART]
    parts.begin(json.dumps([*mark, substituted] if substituted else mark))
    total = source.total if limit is None else min(limit, source.total or limit)
    items: Iterable[SourceItem] = islice(source, limit)
    if substituted:
        items = _substitutions(source, predictor, teacher, substituted).among(items)
        total = total and total * (1 + substituted)
    done = 0
    for number, batch in enumerate(batched(items, PART)):
        name = f"{number:08}"
        if parts.ids(name) is None:
            parts.write(name, _rows(batch, predictor, max_sites, workers))
        done += len(batch)
        if progress is not None:
            progress(done, total)
    if progress is not None:  # not of each structure is made what was asked for
        progress(done, done)
    report = _join(out, parts, teacher, predictor, source)
    parts.remove()
    return report


def _substitutions(
    source: Source, teacher: SpectrumPredictor, of: Teacher, n: int
) -> Substitutions:
    """Of formulas that the source has not: what is made must be no material of a test."""
    known = frozenset(item.structure.formula for item in source if isinstance(item, Candidate))
    elements = frozenset(set(chemical_symbols[1:]) - set(teacher.known.unseen(chemical_symbols)))

    def is_taught(candidate: Candidate) -> bool:
        name = candidate.material_id if of.split_by == "material" else candidate.chemsys
        return part_of(name, of.split_seed) == "training"

    return Substitutions(n, elements, known, is_taught)


def _rows(
    batch: Sequence[SourceItem], predictor: SpectrumPredictor, max_sites: int | None, workers: int
) -> list[Row]:
    """A row for each structure, with its label or the reason why it has none."""
    rows: list[Row] = [{"material_id": item.material_id} for item in batch]
    crystals: dict[int, Crystal] = {}
    for i, item in enumerate(batch):
        crystal = _usable(item, predictor, max_sites)
        if isinstance(crystal, str):
            rows[i]["reason"] = crystal
        else:
            crystals[i] = crystal
    predicted = predictor.predict(list(crystals.values()), workers=workers)
    for k, (i, crystal) in enumerate(crystals.items()):
        if reason := predicted.failures.get(k):
            rows[i]["reason"] = reason
        else:
            rows[i] |= {
                "formula": crystal.formula,
                "lattice": crystal.lattice.ravel(),
                "species": crystal.atomic_numbers,
                "frac_coords": crystal.frac_coords.ravel(),
                SPECTRUM: predicted.values[k],
            }
    return rows


def _usable(item: SourceItem, predictor: SpectrumPredictor, max_sites: int | None) -> Crystal | str:
    """The crystal in its primitive cell, or why it gets no label."""
    if isinstance(item, Unreadable):
        return item.reason
    if item.is_magnetic:
        return "magnetic"
    if unfamiliar := predictor.unfamiliar(item.structure):
        return f"the teacher was not trained on {unfamiliar[0]}"
    candidate = item.reduced()
    if max_sites is not None and candidate.nsites > max_sites:
        return f"more than {max_sites} atoms in the cell"
    # Lanthanides that the teacher was trained on had stand-ins for their 4f shell.
    frozen = frozenset(candidate.structure.atomic_numbers.tolist())
    origin = Origin(source_gap=candidate.band_gap, stand_ins=frozen)
    return why_forbidden(candidate.structure, origin) or candidate.structure


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("material_id", pa.string()),
            ("formula", pa.string()),
            ("lattice", pa.list_(pa.float64())),
            ("species", pa.list_(pa.int16())),
            ("frac_coords", pa.list_(pa.float64())),
            (SPECTRUM, pa.list_(pa.float32())),
            ("reason", pa.string()),
        ]
    )


def _join(
    out: Path, parts: TableParts, teacher: Teacher, predictor: SpectrumPredictor, source: Source
) -> DistillReport:
    """Write the labels of all parts in one file."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    metadata = {
        "grid": predictor.grid.model_dump_json(),
        TEACHER: teacher.model_dump_json(),
        "source": json.dumps(source.provenance),
        "attribution": source.attribution or "",
    }
    schema = _schema().remove(_schema().get_field_index("reason")).with_metadata(metadata)
    left_out: Counter[str] = Counter()
    written = 0
    try:
        with (
            replacing(out) as unfinished,
            pq.ParquetWriter(unfinished, schema, compression="zstd") as writer,
        ):
            for table in parts.tables():
                left_out.update(table["reason"].drop_null().to_pylist())
                labelled = table.filter(pc.is_null(table["reason"])).select(schema.names)
                writer.write_table(labelled.cast(schema))
                written += len(labelled)
            if not written:
                why = _most(left_out)
                raise ScreeningError(f"{source.name}: no structure gets a label ({why})")
    except (OSError, pa.ArrowException) as error:
        raise ScreeningError(f"cannot write {out}: {one_line(error)}") from None
    return DistillReport(out, predictor.model_id, written, dict(left_out.most_common()))


def _most(left_out: Counter[str]) -> str:
    return "; ".join(f"{n} {reason}" for reason, n in left_out.most_common(3)) or "there is none"
