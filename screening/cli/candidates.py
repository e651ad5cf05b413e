"""`screen candidates`: what a run found, filtered and sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import typer

from screening.cli import options

if TYPE_CHECKING:
    from db.documents import CandidateDoc, Run
    from db.store import ScreeningStore
    from screening.cli.fitting_table import Column
    from screening.cli.rows import CandidateRow, DisagreementRow

T = TypeVar("T")

Sortable = Literal[
    "score",
    "probability",
    "width",
    "kind",
    "robust",
    "n_ranges",
    "margin_max_dos",
    "margin_min_width",
    "margin_min_upper_edge",
    "margin_max_upper_edge",
    "energy_above_hull",
    "band_gap",
    "nsites",
    "formula",
    "material_id",
]

_FILTERS = "Filters"


def candidates(
    run: options.RunId = None,
    positive: Annotated[
        bool | None,
        typer.Option("--positive/--all", help="Only the predicted positives, as by default."),
    ] = None,
    to_validate: Annotated[
        bool, typer.Option("--to-validate", help="Positives without a DFT calculation, best first.")
    ] = False,
    disagreements: Annotated[
        bool,
        typer.Option("--disagreements", help="Those that the model and DFT judge differently."),
    ] = False,
    state: Annotated[
        Literal["pending", "screened", "rejected", "failed"] | None,
        typer.Option(rich_help_panel=_FILTERS, help="Implies --all, but for --positive."),
    ] = None,
    elements: Annotated[
        str | None,
        typer.Option(rich_help_panel=_FILTERS, help="All of these must be there: Mg,Si."),
    ] = None,
    exclude_elements: Annotated[
        str | None, typer.Option(rich_help_panel=_FILTERS, help="None of these may: U,Th.")
    ] = None,
    chemsys: Annotated[
        str | None, typer.Option(rich_help_panel=_FILTERS, help="Exactly this system: Mg-Si.")
    ] = None,
    max_ehull: Annotated[
        float | None,
        typer.Option(rich_help_panel=_FILTERS, help="Largest energy above hull, eV/atom."),
    ] = None,
    min_width: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Smallest width of the gap, eV.")
    ] = None,
    min_upper_edge: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Lowest upper edge, eV.")
    ] = None,
    max_upper_edge: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Highest upper edge, eV.")
    ] = None,
    kind: Annotated[
        Literal["gap", "near-gap"] | None,
        typer.Option(rich_help_panel=_FILTERS, help="A gap is nearly empty, a near-gap low."),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust", rich_help_panel=_FILTERS, help="Only verdicts that small changes keep."
        ),
    ] = False,
    max_ranges: Annotated[
        int | None,
        typer.Option(
            min=0, rich_help_panel=_FILTERS, help="Most ranges of that width below the band edge."
        ),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(rich_help_panel=_FILTERS, help="Smallest score, eV.")
    ] = None,
    in_domain: Annotated[
        bool | None,
        typer.Option(
            "--in-domain/--out-of-domain",
            rich_help_panel=_FILTERS,
            help="Only those that the model can know, or only the others: elements that it was "
            "not trained on, isolated atoms, unlike all that it was trained on.",
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_FILTERS,
            help="How well the model can know them, one or several of yes, near, no: yes,near.",
        ),
    ] = None,
    sort: Annotated[Sortable, typer.Option(help="What to sort by.")] = "score",
    ascending: Annotated[bool, typer.Option("--ascending/--descending")] = False,
    limit: options.Limit = None,
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List the candidates of a run."""
    from db import questions
    from db.open import open_store
    from screening.cli.rows import (
        CandidateRow,
        DisagreementRow,
        deliver,
        rows_at_most,
        whether_more,
    )
    from screening.cli.stored import existing, find_run
    from screening.errors import ScreeningError
    from screening.filters import ScreeningFilters
    from screening.report.words import by_criterion, has_gaps
    from workflows.verdicts import judged_for

    if to_validate and disagreements:
        raise ScreeningError("--to-validate and --disagreements ask for different things")
    composition = ScreeningFilters.from_options(
        elements=elements or "", exclude_elements=exclude_elements or "", max_elements=None
    )
    if positive is None:
        positive = state is None and not disagreements
    filters = _that_ask(
        state=state,
        is_positive=positive or None,
        elements=sorted(composition.elements),
        exclude_elements=sorted(composition.exclude_elements),
        chemsys=_system(chemsys),
        kind=kind,
        robust=robust or None,
        out_of_domain=None if in_domain is None else not in_domain,
        in_domain=_words_of_domain(domain),
        energy_above_hull=(None, max_ehull),
        width=(min_width, None),
        upper_edge=(min_upper_edge, max_upper_edge),
        n_ranges=(None, max_ranges),
        score=(min_score, None),
    )
    order = {"sort_by": _field(sort), "descending": not ascending}
    limit = rows_at_most(limit, out, as_json)
    with open_store(existing(db)) as store:
        of_run = find_run(store, run)
        _check_has_gaps(of_run, filters, sort)
        if disagreements:
            differ = questions.disagreements(
                store, of_run.run_id, judged=partial(judged_for, of_run)
            )
            pairs = _among(store, of_run, filters | order, differ, lambda pair: pair.candidate)
            _check_sortable(sort, [pair.candidate for pair in pairs])
            differing = [DisagreementRow.of(pair, of_run) for pair in pairs[:limit]]
            title = f"{len(differing)} disagreements of model and DFT in run {of_run.run_id}"
            title += by_criterion(of_run) + whether_more(pairs, differing)
            show = partial(_disagreement_table, title, differing)
            deliver(DisagreementRow, differing, show, out, as_json, wide)
            return
        if to_validate:
            open_positives = questions.positives_to_validate(store, of_run.run_id)
            asked = _among(store, of_run, filters | order, open_positives, lambda known: known)
        else:
            most = None if limit is None else limit + 1  # to know whether there are more
            found = questions.find_candidates(store, of_run.run_id, limit=most, **filters, **order)
            asked = list(found)
        _check_sortable(sort, asked)
    rows = [CandidateRow.of(candidate, of_run) for candidate in asked[:limit]]
    title = f"{len(rows)} candidates of run {of_run.run_id}{by_criterion(of_run)}"
    if words := _domains_in_words(rows):
        title += f": {words}"
    title += whether_more(asked, rows)
    show = partial(candidates_table, title, rows, has_gaps(of_run))
    deliver(CandidateRow, rows, show, out, as_json, wide)


def _system(text: str | None) -> str | None:
    """Chemical system of `--chemsys`."""
    from screening.errors import ScreeningError
    from screening.filters import known_elements

    try:
        return "-".join(sorted(known_elements(text))) if text else None
    except ValueError as error:
        raise ScreeningError(f"--chemsys {text}: {error}") from None


def _words_of_domain(text: str | None) -> list[str]:
    """Words of `--domain`, which are separated by commas."""
    from db.documents import InDomain
    from screening.errors import ScreeningError

    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    known = get_args(InDomain)
    if text is not None and (not words or not set(words).issubset(known)):
        raise ScreeningError(f"--domain {text}: use {', '.join(known)}, or several with commas")
    return words


def _domains_in_words(rows: Sequence[CandidateRow]) -> str:
    """How many are in, near and out of the domain; empty if that is known of none."""
    counts = Counter(row.in_domain for row in rows)
    words = {"yes": "in the domain of the model", "near": "near it", "no": "out of it"}
    return ", ".join(f"{counts[word]} {where}" for word, where in words.items() if counts[word])


def _field(sort: Sortable) -> str:
    """Field of a candidate by which `sort` sorts."""
    if sort.startswith("margin_"):
        return f"gap.margins.{sort.removeprefix('margin_')}"
    return f"gap.{sort}" if sort in ("width", "kind", "robust", "n_ranges") else sort


def _check_has_gaps(run: Run, filters: dict[str, Any], sort: Sortable) -> None:
    """Refuse to ask for gaps where another criterion judged.

    Raises
    ------
    ScreeningError
        In one line, with the options.
    """
    from screening.errors import ScreeningError
    from screening.report.words import criterion_name, has_gaps

    names = {"kind": "--kind", "robust": "--robust", "width": "--min-width"}
    names |= {"upper_edge": "--min-upper-edge or --max-upper-edge", "n_ranges": "--max-ranges"}
    asked = [option for field, option in names.items() if field in filters]
    if _field(sort).startswith("gap."):
        asked.append(f"--sort {sort}")
    if asked and not has_gaps(run):
        raise ScreeningError(
            f"{', '.join(asked)}: run {run.run_id} has no gaps; its criterion is "
            f"{criterion_name(run)}"
        )


def _check_sortable(sort: Sortable, candidates: Sequence[CandidateDoc]) -> None:
    """Refuse to sort by probabilities where there are none.

    Raises
    ------
    ScreeningError
        In one line, with what can be sorted by.
    """
    from screening.acquisition import NO_PROBABILITIES
    from screening.errors import ScreeningError

    if sort == "probability" and candidates and all(c.probability is None for c in candidates):
        raise ScreeningError(NO_PROBABILITIES.format("--sort probability", "--sort score"))


def _that_ask(**filters: Any) -> dict[str, Any]:
    """Arguments of :func:`db.questions.find_candidates`; without those that ask nothing."""
    from db.questions import ANY

    return {name: value for name, value in filters.items() if value not in (None, [], ANY)}


def _among(
    store: ScreeningStore,
    run: Run,
    filters: dict[str, Any],
    items: list[T],
    candidate_of: Callable[[T], CandidateDoc],
) -> list[T]:
    """Those items whose candidate is asked for, in the order that is asked for."""
    from db.questions import candidate_query

    found = store.values(candidate_query(run.run_id, **filters), ["material_id"])
    places = {material_id: place for place, (material_id,) in enumerate(found)}
    among = [item for item in items if candidate_of(item).material_id in places]
    return sorted(among, key=lambda item: places[candidate_of(item).material_id])


def candidates_table(title: str, rows: Sequence[CandidateRow], has_gaps: bool = True) -> Any:
    """Table for the terminal; ≥ marks a width that is a lower bound.

    Parameters
    ----------
    title : str
    rows : sequence of CandidateRow
    has_gaps : bool
        They were judged by a gap, so that there are edges and widths; else there are the
        quantities that another criterion looked at.
    """
    from models.zoo import model_name
    from screening.cli.console import table_of
    from screening.cli.fitting_table import Column

    columns: dict[Column, Any] = {
        Column("material"): "material_id",
        Column("formula", 1): "formula",
        Column("atoms", 2): "nsites",
        Column("hull eV/atom", 5): "energy_above_hull",
        **(_gap_columns() if has_gaps else _feature_columns(rows)),
    }
    if any(row.probability is not None for row in rows):
        columns[Column("probability", 2)] = _probability
    if any(row.in_domain for row in rows):
        columns[Column("in domain", 4)] = "in_domain"
    if any(row.first_model_id for row in rows):
        columns[Column("judged by", 9)] = lambda row: model_name(row.model_id or "") or None
        columns[Column("first positive", 9)] = "first_is_positive"
        columns[Column("first score eV" if has_gaps else "first score", 9)] = "first_score"
    if any(row.doubts for row in rows):
        columns[Column("doubts", 2, folds=True)] = lambda row: "; ".join(row.doubts) or None
    if any(row.reason for row in rows):
        columns[Column("reason", 1, folds=True)] = "reason"
    return table_of(title, columns, rows)


def _gap_columns() -> dict[Any, Any]:
    from screening.cli.fitting_table import Column

    return {
        Column("gap from eV", 6): "gap_lower_edge",
        Column("gap to eV", 3): "gap_upper_edge",
        Column("width eV", 1): _width,
        Column("score eV", 4): "score",
        Column("kind", 7): "gap_kind",
        Column("robust", 8): "gap_robust",
    }


def _feature_columns(rows: Sequence[CandidateRow]) -> dict[Any, Any]:
    from screening.cli.fitting_table import Column
    from screening.report.words import flat_features

    def value(name: str, row: CandidateRow) -> float | bool | None:
        return flat_features(row.features).get(name)

    names = dict.fromkeys(name for row in rows for name in flat_features(row.features))
    columns = {Column(name, 3): partial(value, name) for name in names}
    return {Column("score", 1): "score"} | columns


def _probability(row: CandidateRow) -> str | None:
    return None if row.probability is None else f"{row.probability:.2f}"


def _width(row: CandidateRow) -> str | None:
    if row.gap_width is None:
        return None
    return f"{'≥ ' if row.gap_width_is_lower_bound else ''}{row.gap_width:.2f}"


def _disagreement_table(title: str, rows: Sequence[DisagreementRow]) -> Any:
    from screening.cli.console import table_of
    from screening.cli.fitting_table import Column

    columns: dict[Column, Any] = {
        Column("material"): "material_id",
        Column("formula", 1): "formula",
        Column("model", 1): "predicted_positive",
        Column("DFT", 1): "dft_positive",
        **_width_columns(rows),
        Column("calculated with", 5, folds=True): lambda row: f"{row.engine}, {row.recipe}",
    }
    return table_of(title, columns, rows)


def _width_columns(rows: Sequence[DisagreementRow]) -> dict[Any, Any]:
    """Widths of the gaps, where there are any, and the score."""
    from screening.cli.fitting_table import Column

    if not any(row.predicted_width is not None for row in rows):
        return {Column("score", 4): "score"}
    return {
        Column("model's width eV", 3): "predicted_width",
        Column("DFT's eV", 2): "dft_width",
        Column("score eV", 4): "score",
    }
