"""What is known of a run and of a material, in words and rows, wherever it is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from db.documents import CandidateDoc, GapDoc, Run, ValidationDoc
    from models.crystal import Crystal
    from models.spectra.electronic_structure import ElectronicStructure
    from screening.classification import Assessment

PAPER_DOI = "10.1038/s41467-022-28543-x"
PAPER = f"Kong et al., Nat. Commun. 13, 949 (2022), doi:{PAPER_DOI}"
MP_IDS = ("mp-", "mvc-")
_MP_ID = re.compile(r"(mp|mvc)-\d+", re.ASCII)
_MP_PAGES = "https://next-gen.materialsproject.org/materials/"
_UNKNOWN_ATOMS = "the run's program did not look, or has no radius of an element"
_UNKNOWN_DISTANCE = "how far it is from the training materials is not known"
Row = tuple[str, Any]
"""What it is, with its unit, and its value; None where that is not known."""


def criterion_name(run: Run) -> str:
    """Name of a run's criterion, also where it is of a package that is gone."""
    from screening.criteria.registry import CRITERION, criterion_of

    definition = run.parameters.get(CRITERION)
    return str(definition["name"]) if definition else criterion_of(run.parameters).name


def by_criterion(run: Run) -> str:
    """For titles: the criterion if it is not the VB gap."""
    from screening.criteria.gap_criterion import VB_GAP

    name = criterion_name(run)
    return "" if name == VB_GAP else f" by {name}"


def has_gaps(run: Run) -> bool:
    """Whether its criterion is a gap, so that its candidates have one, or a nearest miss."""
    from screening.criteria.gap_criterion import gap_title

    return gap_title(criterion_name(run)) is not None


def verdict_title(document: CandidateDoc | ValidationDoc) -> str:
    """What a positive has or is, such as ``"VB gap"``, or the criterion's name."""
    from screening.criteria.gap_criterion import gap_title

    criterion = document.criterion
    if criterion is None and document.gap and document.gap.criteria.get("band") == "conduction":
        criterion = "cb-gap"  # of older programs, which did not say so
    return gap_title(criterion) or str(criterion)


def flat_features(features: dict[str, Any] | None) -> dict[str, float | bool | None]:
    """Features of a document by their whole names, such as ``"vb_gap.width"``."""
    flat: dict[str, float | bool | None] = {}
    for name, value in (features or {}).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{last}": number for last, number in value.items()}
        else:
            flat[name] = value
    return flat


def attribution_of(material_id: str, run: Run | None = None) -> str | None:
    """How the source of a material wants to be cited.

    What the source itself said when the run was made; an id of the Materials Project says it
    where the source did not.

    Parameters
    ----------
    material_id : str
    run : Run, optional
        That the material is in.
    """
    from screening.sources.materials_project.client import ATTRIBUTION

    stated = run.source.get("attribution") if run else None
    return stated or (ATTRIBUTION if material_id.startswith(MP_IDS) else None)


def first_verdict_in_words(candidate: CandidateDoc) -> str | None:
    """What the first model of a run with two said of a candidate that was to be judged again."""
    from models.zoo import model_name

    first = candidate.first_verdict
    if first is None:
        return None
    verdict = "positive" if first.is_positive else "negative"
    return f"{model_name(first.model_id)}: {verdict}, score {first.score:.2f}"


def cell_in_words(nsites: int, multiplicity: int | None, problem: str | None) -> str:
    """What became of the cell that the source gave.

    Parameters
    ----------
    nsites : int
        Atoms of the cell that was judged.
    multiplicity : int or None
        Primitive cells in the cell as given; None if it was not reduced.
    problem : str or None
        Why it could not be reduced.
    """
    if problem is not None:
        return f"kept as given: {problem}"
    if multiplicity is None:
        return "not reduced"
    if multiplicity == 1:
        return "primitive"
    return f"given with {nsites * multiplicity} atoms, reduced to 1/{multiplicity}"


def candidate_rows(candidate: CandidateDoc, unit: str = "") -> list[Row]:
    """What is known of a candidate.

    Parameters
    ----------
    candidate : CandidateDoc
    unit : str
        Of the score; empty for a number.
    """
    gap, title = candidate.gap, verdict_title(candidate)
    rows: list[Row] = [
        ("run", candidate.run_id),
        ("formula", candidate.formula),
        ("atoms in the cell", str(candidate.nsites)),
        ("cell", _cell(candidate)),
        ("energy above hull (eV/atom)", _number(candidate.energy_above_hull)),
        ("band gap (eV)", _number(candidate.band_gap)),
        ("magnetic", candidate.is_magnetic),
        ("has a DFT DOS", candidate.has_edos),
        ("state", candidate.state),
        ("reason", candidate.reason),
        ("source", " ".join(str(part) for part in candidate.origin.values()) or None),
        (title, candidate.is_positive),
    ]
    if first := first_verdict_in_words(candidate):
        rows += [("judged by", candidate.model_id), ("first verdict", first)]
    if gap is not None and gap.width:
        rows.append(("gap or nearest miss (eV)", _span(gap)))
        rows.append((f"largest DOS in it ({dos_unit(gap.per_atom)})", _number(gap.max_dos)))
        rows.append(("score (eV)", _number(candidate.score)))
    if candidate.probability is not None:
        rows.append(("probability of a positive by DFT", f"{candidate.probability:.2f}"))
    if candidate.expected_error is not None:
        rows.append(("expected error of the spectrum, WD (eV)", _number(candidate.expected_error)))
    if gap is not None:
        rows.append(("kind", gap.kind))
        rows.append(("ranges of that width below the band edge", _whole(gap.n_ranges)))
        rows.append(("verdict is robust", gap.robust))
        rows.append((f"{title} with the threshold per atom", candidate.is_positive_per_atom))
    if candidate.features is not None:
        rows.append((_with_unit("score", unit), _number(candidate.score)))
        rows += _features(candidate.features)
    rows += _domain(candidate)
    rows += [("remark", remark) for remark in candidate.remarks or ()]
    return rows


def _features(features: dict[str, Any], engine: str | None = None) -> list[Row]:
    """The quantities that decided, with their units."""
    by = f" by {engine}" if engine else ""
    return [
        (feature_title(name) + by, value if isinstance(value, bool) else _number(value))
        for name, value in flat_features(features).items()
    ]


def feature_title(name: str) -> str:
    """Name of a quantity that a criterion looks at, with its unit.

    Examples
    --------
    >>> feature_title("dos_at_fermi"), feature_title("vb_gap.is_gap")
    ('dos_at_fermi (states/eV/cell)', 'vb_gap.is_gap')
    """
    from screening.criteria.features import FEATURES

    units = {name: feature.unit for known in FEATURES.values() for name, feature in known.items()}
    return _with_unit(name, units.get(name, ""))


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _domain(candidate: CandidateDoc) -> list[Row]:
    """Whether the model can know the material, why not or how; empty before a verdict."""
    from screening.domain import Domain, remarks_on

    if candidate.is_positive is None:
        return []
    domain = Domain.of_document(candidate)
    words: str = domain.in_domain or "not known"
    if because := domain.reasons or domain.reservations:
        words += f": {', '.join(because)}"
    elif domain.in_domain is None:
        words += f": {_UNKNOWN_DISTANCE if domain.is_outside is False else _UNKNOWN_ATOMS}"
    remarks = [("remark", remark) for remark in remarks_on(candidate)]
    return [("in the domain of the model", words), *remarks]


def level_rows(structure: ElectronicStructure | None) -> list[Row]:
    """Band gap of a model that knows it.

    There is no Fermi level: it is the middle of the gap, and the zero of the model's energies
    differs between crystals.
    """
    if structure is None:
        return []
    return [
        ("predicted band gap (eV)", _number(structure.band_gap)),
        ("predicted to be", "a metal" if structure.is_metal else "an insulator"),
    ]


def dft_rows(validation: ValidationDoc | None) -> list[Row]:
    """What DFT says, in bins and at its own resolution where the two differ."""
    if validation is None:
        return []
    engine, title = validation.engine, verdict_title(validation)
    verdict: Any = validation.is_positive
    if validation.state == "magnetic":
        verdict = "magnetic, so no verdict (the screening is for nonmagnetic materials)"
    rows: list[Row] = [
        (f"recipe of {engine}", validation.recipe),
        (f"{title} by {engine}", verdict),
    ]
    if (gap := validation.gap) is not None:
        if gap.width:
            unit = dos_unit(gap.per_atom)
            rows.append((f"gap or nearest miss by {engine} (eV)", _span(gap)))
            rows.append((f"largest DOS in it ({unit}), {engine}", _number(gap.max_dos)))
        rows.append((f"kind by {engine}", gap.kind))
        rows.append((f"verdict by {engine} is robust", gap.robust))
        if gap.is_gap_fine is not None and gap.is_gap_fine != gap.is_gap:
            rows.append((f"{title} by {engine} at full resolution", gap.is_gap_fine))
    rows += _features(validation.features or {}, engine)
    rows.append((f"band gap by {engine} (eV)", _number(validation.band_gap)))
    rows += [(f"remark by {engine}", remark) for remark in validation.warnings or ()]
    if validation.mae is not None:
        rows.append(("error of the prediction, MAE (states/eV/cell)", _number(validation.mae)))
    if validation.wd is not None:
        rows.append(("error of the prediction, WD (eV)", _number(validation.wd)))
    return rows


def gap_edges(gap: GapDoc | None) -> tuple[float, float] | None:
    """Edges of the range if it is a gap, in eV."""
    if gap is None or not gap.is_gap or gap.lower_edge is None or gap.upper_edge is None:
        return None
    return gap.lower_edge, gap.upper_edge


def _span(gap: GapDoc) -> str:
    bound = "at least " if gap.is_lower_bound else ""
    return f"{gap.lower_edge:.2f} to {gap.upper_edge:.2f}, width {bound}{gap.width:.2f}"


def dos_unit(per_atom: bool) -> str:
    """Unit of a DOS that is judged per atom, or per cell."""
    return "states/eV/atom" if per_atom else "states/eV/cell"


def _cell(candidate: CandidateDoc) -> str:
    fields = candidate.nsites, candidate.cell_multiplicity, candidate.reduction_problem
    return cell_in_words(*fields)


def _whole(value: int | None) -> str | None:
    return None if value is None else str(value)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def structure_in_words(crystal: Crystal | None) -> str | None:
    """The cell for those who do not see it."""
    if crystal is None:
        return None
    from pymatgen.core import Lattice

    lattice = Lattice(crystal.lattice)
    a, b, c = lattice.abc
    alpha, beta, gamma = lattice.angles
    atoms = ", ".join(f"{n} {symbol}" for symbol, n in crystal.composition.items())
    return (
        f"Cell of {len(crystal)} atom{'s' if len(crystal) > 1 else ''} ({atoms}): "
        f"a = {a:.3f}, b = {b:.3f}, c = {c:.3f} Å; "
        f"α = {alpha:.1f}°, β = {beta:.1f}°, γ = {gamma:.1f}°; volume {crystal.volume:.2f} Å³"
    )


def materials_project_page(material_id: str) -> str | None:
    """Address of a material at the Materials Project; None if it is not from there."""
    return f"{_MP_PAGES}{material_id}" if _MP_ID.fullmatch(material_id) else None


def markdown(text: str) -> str:
    r"""Text from outside for Markdown, in which nothing of it is markup.

    Examples
    --------
    >>> markdown("a_b <i>*")
    'a\\_b &lt;i&gt;\\*'
    """
    return re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", escape(" ".join(text.split()), quote=False))


def criterion_rows(
    holds: Mapping[str, bool], margins: Mapping[str, float | None], per_atom: bool
) -> list[tuple[str, bool, str | None]]:
    """Which criteria hold, and by how much.

    Parameters
    ----------
    holds : mapping of str to bool
        By the name of the criterion.
    margins : mapping of str to float or None
        By which it holds (positive) or fails: states/eV for ``"max_dos"``, else eV.
    per_atom : bool
        The DOS was judged per atom, not per cell.
    """
    rows = []
    for name, is_met in holds.items():
        margin = margins.get(name)
        unit = dos_unit(per_atom) if name == "max_dos" else "eV"
        rows.append((name, is_met, None if margin is None else f"{margin:+.3f} {unit}"))
    return rows


def figure_rows(assessment: Assessment) -> list[tuple[str, str, str]]:
    """Precision, recall and F1, each with its 95 % interval and the estimate or its bounds."""
    figures = {
        "precision, validated set": assessment.precision,
        "recall, validated set": assessment.recall,
        "F1, validated set": assessment.f1,
        "precision, screened set": assessment.screened_precision,
        "recall, screened set": assessment.screened_recall,
    }
    return [
        (name, _range(figure.low, figure.high), _range(figure.least, figure.most))
        for name, figure in figures.items()
    ]


def _range(low: float | None, high: float | None) -> str:
    """Two shares, or one if they are the same."""
    if low is None or high is None:
        return ""
    if low == high:
        return f"{low:.2f}"
    return f"{_digits(low)} to {_digits(high)}"


def _digits(share: float) -> str:
    return f"{share:.3f}" if 0 < share < 0.1 else f"{share:.2f}"


def count_rows(assessment: Assessment, undecided: Mapping[str, int]) -> list[tuple[str, int]]:
    """Materials by what model and DFT say of them.

    Parameters
    ----------
    assessment : Assessment
    undecided : mapping of str to int
        Calculations without a verdict, by the reason.
    """
    names = {
        "tp": "true positives",
        "fp": "false positives",
        "fn": "false negatives",
        "tn": "true negatives",
    }
    rows = [(name, assessment.counts[key]) for key, name in names.items()]
    return [*rows, *((f"without a verdict: {why}", n) for why, n in undecided.items())]
