"""A run for another group: its archive, with words, a citation file and the cards of its models."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from db.archive import Manifest, Progress, write_archive
from db.collections import CANDIDATES, Query, conditions
from db.documents import SCHEMA_VERSION, Run
from db.paths import without_folders
from db.store import ScreeningStore
from models.writing import replacing
from models.zoo import model_name
from screening.criteria.interface import SPECTRA_IN_WORDS
from screening.criteria.registry import criterion_of
from screening.errors import ScreeningError
from screening.report.words import PAPER, PAPER_DOI, attribution_of, markdown
from workflows.metrics import run_metrics
from workflows.reporting import find_model

PACKAGE = "edos-screening"
PROGRAMS = (PACKAGE, "pyarrow", "pymatgen-core")
CARDS = ("README.md", "card.json")
ARTICLE = {
    "type": "article",
    "title": "Density of states prediction for materials discovery via contrastive learning from "
    "probabilistic embeddings",
    "authors": [
        {"family-names": family, "given-names": given}
        for family, given in (
            ("Kong", "Shufeng"),
            ("Ricci", "Francesco"),
            ("Guevarra", "Dan"),
            ("Neaton", "Jeffrey B."),
            ("Gomes", "Carla P."),
            ("Gregoire", "John M."),
        )
    ],
    "journal": "Nature Communications",
    "volume": 13,
    "start": 949,
    "year": 2022,
    "doi": PAPER_DOI,
}
UNITS = {
    "edos": "Spectra are in states/eV/cell, both spins, on the grid that stands beside them; "
    "energies in eV are relative to the VBM below 0 and to the CBM above 0, or to the Fermi level "
    "of a metal.",
    "phdos": "Spectra are on any scale, on the grid that stands beside them, in cm^-1; negative "
    "frequencies are imaginary modes.",
}
COLUMNS = {
    "runs.parquet": "the run: filters, criterion, model, versions, the funnel's counts",
    "candidates.parquet": "each material with its structure, properties, state and verdict",
    "predictions.parquet": "predicted spectra and the paper's verdict on them",
    "validations.parquet": "DFT calculations that the run asked for: spectrum, verdict, settings",
    "rounds.parquet": "rounds of a search that chose among the run's candidates",
    "raw_dos.parquet": "the DOS as calculated (dicts of pymatgen), by the names in validations",
    "schema/*.json": "JSON schema of each sort of document, with its units",
    "models/*/": "the cards of the models: data, figures, limits",
    "manifest.json": "SHA-256 of each file, versions, what was left out",
}


def export_run(
    store: ScreeningStore,
    run: Run,
    path: Path,
    *,
    with_raw_dos: bool = True,
    progress: Progress | None = None,
) -> Manifest:
    """Write a run into one archive, see :func:`db.archive.write_archive`.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    path : Path
    with_raw_dos : bool
        Also the DOS as calculated.
    progress : callable, optional
        Called with the name of what is written and the number of documents done.

    Raises
    ------
    ScreeningError
        If the file cannot be written.
    """
    query = Query(CANDIDATES, conditions(run_id=run.run_id))
    names = store.values(query, ("material_id",))
    attributions = {attribution_of(material_id, run) for (material_id,) in names}
    sources = sorted(text for text in attributions if text)
    texts = {
        "README.md": readme(store, run, sources, with_raw_dos).encode(),
        "CITATION.cff": citation(run, sources).encode(),
        **model_cards(run),
    }
    try:
        with replacing(path) as unfinished:
            return write_archive(
                store,
                run,
                unfinished,
                texts,
                with_raw_dos=with_raw_dos,
                versions={name: version(name) for name in PROGRAMS},
                attributions=sources,
                progress=progress,
            )
    except OSError as error:
        raise ScreeningError(f"{path} cannot be written: {error.strerror or error}") from None


def readme(store: ScreeningStore, run: Run, sources: list[str], with_raw_dos: bool) -> str:
    """What the archive is, in words.

    Parameters
    ----------
    store : ScreeningStore
    run : Run
    sources : list of str
        How the sources of the data want to be cited.
    with_raw_dos : bool
        Whether the DOS as calculated are there.
    """
    criterion = criterion_of(run.parameters)
    models = [model for model in (run.model_id, run.second_model_id) if model]
    source = without_folders(str(run.source.get("name") or run.source.get("source") or "unknown"))
    release = run.source.get("database_version")
    files = {name: what for name, what in COLUMNS.items() if with_raw_dos or "raw_dos" not in name}
    counts = ", ".join(f"{name} {number}" for name, number in sorted(run.counts.items()))
    funnel = [
        f"| {step.name} | {step.entered} | {step.dropped} | {step.unknown} |" for step in run.funnel
    ]
    lines = [
        f"# Screening run {run.run_id}",
        "",
        f"- Made by {PACKAGE} {run.versions.get(PACKAGE, 'of an unknown version')}, "
        f"{run.created_at:%Y-%m-%d}; state: {run.state}",
        f"- Structures from: {markdown(source)}{f', release {release}' if release else ''}",
        f"- Spectra: {SPECTRA_IN_WORDS[criterion.spectra]}, predicted by "
        f"{' and '.join(models) or 'no model'}",
        f"- Looked for: {criterion.name}, with the parameters in runs.parquet",
        f"- Candidates: {counts or 'none'}",
        *_in_words(store, run),
        "",
        "| filter | entered | dropped | could not judge |",
        "| --- | --- | --- | --- |",
        *funnel,
        "",
        f"{UNITS[criterion.spectra]} Predictions are estimates; the cards in models/ say how good.",
        "",
        "## Files",
        "",
        *(f"- `{name}`: {what}" for name, what in files.items()),
        "",
        "What has no fixed form, such as a structure (pymatgen), is JSON text in the tables. "
        "Absolute paths and passwords were left out of texts; manifest.json says where and how "
        "often.",
        "",
        "## Open it",
        "",
        f"With {PACKAGE} installed:",
        "",
        "```bash",
        f"screen db copy {run.run_id}.zip screening.sqlite   # or a mongodb:// URI",
        f"screen candidates --run {run.run_id}",
        "```",
        "",
        "or unpack it and read the tables with pandas, polars, DuckDB or Spark.",
        "",
        "## Attribution",
        "",
        *(f"- {markdown(text)}" for text in sources),
        f"- Method: {PAPER}",
        "",
    ]
    return "\n".join(lines)


def _in_words(store: ScreeningStore, run: Run) -> list[str]:
    """How many materials DFT judged, by engine and recipe."""
    words = []
    for result in run_metrics(store, run):
        counts = result.assessment.counts
        words.append(
            f"- DFT ({result.engine}, {result.recipe}): {counts['tp']} of "
            f"{counts['tp'] + counts['fp']} predicted positives confirmed, {counts['fn']} of "
            f"{counts['fn'] + counts['tn']} predicted negatives are positive; `screen metrics` has "
            "the intervals"
        )
    return words or ["- DFT: nothing calculated"]


def citation(run: Run, sources: list[str]) -> str:
    """Citation file of the archive as a data set; its authors are for those to name who publish it.

    Parameters
    ----------
    run : Run
    sources : list of str
        How the sources of the data want to be cited.
    """
    document: dict[str, Any] = {
        "cff-version": "1.2.0",
        "title": f"Screening run {run.run_id}: predicted densities of states and verdicts",
        "message": " ".join(["If you use this data set, cite it and what it refers to.", *sources]),
        "type": "dataset",
        "authors": [{"name": "Those who publish this archive (put your names here)"}],
        "version": str(SCHEMA_VERSION),
        "date-released": f"{run.finished_at or run.updated_at:%Y-%m-%d}",
        "references": [
            {
                "type": "software",
                "title": PACKAGE,
                "version": version(PACKAGE),
                "authors": [{"name": f"The {PACKAGE} maintainers"}],
            },
            ARTICLE,
        ],
    }
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text


def model_cards(run: Run) -> dict[str, bytes]:
    """The cards of the models of a run that are still there, by their names in the archive."""
    cards = {}
    for model in (run.model_id, run.second_model_id):
        folder = find_model(run, model) if model else None
        for name in CARDS:
            if folder is not None and (folder / name).is_file():
                text = (folder / name).read_text(encoding="utf-8")
                stripped = "\n".join(map(without_folders, text.split("\n")))
                cards[f"models/{model_name(model or '')}/{name}"] = stripped.encode()
    return cards
