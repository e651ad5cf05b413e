"""A run's candidates as contributions to the Materials Project, in the format of MPContribs.

What `mpcontribs.client.Client.submit_contributions` takes: a dict for each material, whose data is
nested in keys of letters and digits, with a number and its unit in one text. Nothing is sent.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from db.collections import CANDIDATES, Query, batched, conditions
from db.documents import CandidateDoc, GapDoc, PredictionDoc, Run, ValidationDoc
from db.store import BATCH, ScreeningStore
from models.writing import replacing
from screening.criteria.interface import Criterion
from screening.criteria.registry import criterion_of
from screening.errors import ScreeningError
from workflows.reporting import find_predictions, run_validations
from workflows.verdicts import compared_with

MP_ID = re.compile(r"mp-(\d+|[a-z]{5,8})")  # letters are the ids of the new numbering
EV, STATES, HULL = "eV", "1/eV", "eV/atom"  # of states per eV and cell pint knows the second half
COLUMNS: dict[str, str | None] = {
    "prediction.positive": None,
    "prediction.score": EV,
    "prediction.scoreNumber": "",  # by a criterion whose score is no energy
    "prediction.probability": "",
    "prediction.expectedError": EV,
    "prediction.inDomain": None,
    "prediction.model": None,
    "prediction.gap.lowerEdge": EV,
    "prediction.gap.upperEdge": EV,
    "prediction.gap.width": EV,
    "prediction.gap.maxDOS": STATES,
    "prediction.gap.kind": None,
    "DFT.positive": None,
    "DFT.gap.lowerEdge": EV,
    "DFT.gap.upperEdge": EV,
    "DFT.gap.width": EV,
    "DFT.gap.maxDOS": STATES,
    "DFT.bandGap": EV,
    "DFT.code": None,
    "DFT.recipe": None,
    "DFT.wassersteinDistance": EV,
    "structure.sites": "",
    "structure.energyAboveHull": HULL,
    "run.criterion": None,
    "run.id": None,
    "run.databaseVersion": None,
}
"""Columns with their units, for `Client.init_columns`; None is text, "" a number without a unit."""


@dataclass
class Contributed:
    """How many candidates were written, and how many have no id of the Materials Project.

    Attributes
    ----------
    written, without_id, without_prediction : int
    """

    written: int = 0
    without_id: int = 0
    without_prediction: int = 0


def write_contributions(
    store: ScreeningStore, run: Run, project: str, path: Path, *, positives_only: bool = True
) -> Contributed:
    """Write the contributions as JSON, compressed with gzip.

    :func:`monty.serialization.loadfn` reads them with pymatgen's structures and pandas' tables, as
    the client wants them.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    project : str
        Name of the project at MPContribs.
    path : Path
        Its name ends in ``.json.gz``.
    positives_only : bool
        Only predicted positives and what DFT calculated; else all that was screened.

    Raises
    ------
    ScreeningError
        If there is nothing to write, or the file cannot be written.
    """
    if not path.name.endswith(".json.gz"):
        raise ScreeningError(f"{path}: the name has to end in .json.gz")
    contributed = Contributed()
    try:
        with (
            replacing(path) as unfinished,
            unfinished.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as out,
        ):
            _write_list(out, contributions(store, run, project, contributed, positives_only))
            if not contributed.written:
                asked_for = contributed.without_id + contributed.without_prediction
                raise ScreeningError(
                    f"run {run.run_id} has nothing to contribute: of {asked_for} candidates "
                    f"{contributed.without_id} have no id of the Materials Project (mp-...)"
                )
    except OSError as error:
        raise ScreeningError(f"{path} cannot be written: {error.strerror or error}") from None
    return contributed


def _write_list(out: gzip.GzipFile, items: Iterator[dict[str, Any]]) -> None:
    separator = b"[\n"
    for item in items:
        out.write(separator + orjson.dumps(item))
        separator = b",\n"
    out.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def contributions(
    store: ScreeningStore,
    run: Run,
    project: str,
    contributed: Contributed,
    positives_only: bool = True,
) -> Iterator[dict[str, Any]]:
    """Contributions of a run, by id.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    project : str
    contributed : Contributed
        Told how many there are.
    positives_only : bool
        As for :func:`write_contributions`.
    """
    validations = run_validations(store, run)
    criterion = criterion_of(run.parameters)
    asked = conditions(run_id=run.run_id, state="screened")
    query = Query(CANDIDATES, asked, sort_by="material_id", with_structure=True)
    wanted = (
        candidate
        for candidate in store.find(query)
        if not positives_only or candidate.is_positive or candidate.material_id in validations
    )
    for batch in batched(wanted, BATCH):
        of_project = [c for c in batch if MP_ID.fullmatch(c.material_id)]
        contributed.without_id += len(batch) - len(of_project)
        predictions = find_predictions(store, of_project)
        for candidate in of_project:
            prediction = predictions.get(candidate.material_id)
            if prediction is None:
                contributed.without_prediction += 1
                continue
            validation = validations.get(candidate.material_id)
            if validation and validation.structure_hash != candidate.structure_hash:
                validation = None
            validation = validation and compared_with(validation, prediction)
            contributed.written += 1
            yield _contribution(run, criterion, project, candidate, prediction, validation)


def _contribution(
    run: Run,
    criterion: Criterion,
    project: str,
    candidate: CandidateDoc,
    prediction: PredictionDoc,
    validation: ValidationDoc | None,
) -> dict[str, Any]:
    score = "score" if criterion.unit == EV else "scoreNumber"
    values = {
        "prediction.positive": candidate.is_positive,
        f"prediction.{score}": candidate.score,
        "prediction.probability": candidate.probability,
        "prediction.expectedError": candidate.expected_error,
        "prediction.inDomain": candidate.in_domain,
        "prediction.model": candidate.model_id,
        **_gap("prediction", candidate.gap, candidate.nsites),
        "structure.sites": candidate.nsites,
        "structure.energyAboveHull": candidate.energy_above_hull,
        "run.criterion": criterion.name,
        "run.id": run.run_id,
        "run.databaseVersion": candidate.origin.get("database_version"),
    }
    if validation is not None:
        values |= {
            "DFT.positive": validation.is_positive,
            **_gap("DFT", validation.gap, validation.nsites),
            "DFT.bandGap": validation.band_gap,
            "DFT.code": validation.engine,
            "DFT.recipe": validation.recipe,
            "DFT.wassersteinDistance": validation.wd,
        }
    return {
        "project": project,
        "identifier": candidate.material_id,
        "formula": candidate.formula,
        "is_public": False,
        "data": _nested(values),
        "structures": [dict(candidate.structure)] if candidate.structure else [],
        "tables": [_table(prediction, validation)],
    }


def _gap(where: str, gap: GapDoc | None, n_atoms: int) -> dict[str, Any]:
    """Of a verdict that there is a gap; its largest DOS is of the cell, as the spectra are."""
    if gap is None or not gap.is_gap:
        return {}
    per_cell = n_atoms if gap.per_atom else 1
    return {
        f"{where}.gap.lowerEdge": gap.lower_edge,
        f"{where}.gap.upperEdge": gap.upper_edge,
        f"{where}.gap.width": gap.width,
        f"{where}.gap.maxDOS": None if gap.max_dos is None else gap.max_dos * per_cell,
        f"{where}.gap.kind": gap.kind if where == "prediction" else None,
    }


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values with their units, by the parts of their keys; what is not known is left out."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        if value is None or value == "":
            continue
        *groups, last = path.split(".")
        where = nested
        for group in groups:
            where = where.setdefault(group, {})
        where[last] = _with_unit(value, COLUMNS[path])
    return nested


def _with_unit(value: Any, unit: str | None) -> Any:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if unit and isinstance(value, (int, float)):
        return f"{value:.6g} {unit}"
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _table(prediction: PredictionDoc, validation: ValidationDoc | None) -> dict[str, Any]:
    """Spectra as monty writes a DataFrame: the client wants one."""
    grid = prediction.grid
    unit = "states/eV/cell" if grid.unit == "eV" else "any scale"
    axis = "energy [eV]" if grid.unit == "eV" else "wavenumber [1/cm]"
    columns = {axis: grid.centers, f"predicted DOS [{unit}]": prediction.spectrum}
    if validation is not None and validation.spectrum is not None:
        columns[f"DFT DOS [{unit}]"] = validation.spectrum
    rows = {
        name: {str(i): float(f"{value:.6g}") for i, value in enumerate(np.asarray(values))}
        for name, values in columns.items()
    }
    return {"@module": "pandas", "@class": "DataFrame", "data": orjson.dumps(rows).decode()}
