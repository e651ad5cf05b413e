"""From structures to spectra and verdicts in one call: what `screen predict` does, in Python."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack, overload

import numpy as np

from models.crystal import Crystal
from models.spectra.html import html_table, spectrum_html
from models.spectra.spectrum import EDOS_GRID, Spectrum
from models.zoo import model_name, predictor_folder
from screening.candidate import Candidate, SourceItem, Unreadable
from screening.criteria.gap_criterion import GapCriterion
from screening.domain import Domain, Training
from screening.errors import ScreeningError
from screening.gap import CRITERIA, GapCriteria, find_gaps
from screening.nearest import NearestMaterial, with_labels
from screening.second_predictor import (
    RESCORE_WITH,
    can_judge_again,
    n_unless_asked,
    not_judged_again,
)
from screening.sources.given import ALONE, read_given
from screening.trust import calibration_of, trust_in

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from matplotlib.axes import Axes
    from pymatgen.core import Structure
    from pymatgen.electronic_structure.dos import Dos

    from db.documents import InDomain
    from models.predictor import SpectrumPredictor
    from models.spectra.electronic_structure import ElectronicStructure

    InMemory: TypeAlias = Structure | Atoms | Crystal
    FilePath: TypeAlias = str | PathLike[str]

SHOWN_ROWS = 10  # of a table in a notebook
GAP_COLUMN = "predicted_band_gap"  # of models that know levels only


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The predicted eDOS of one structure, and the verdict on it.

    Parameters
    ----------
    candidate : Candidate
        The structure in the cell that was judged, with what its file says of it.
    spectrum : Spectrum
        States/eV/cell, both spins, in 128 bins around the band edges.
    verdict : dict
        What :meth:`gap` returns.
    criteria : GapCriteria
        What it was judged by.
    model_id : str
        Name of the predictor with a hash of its weights.
    elements_not_trained_on : tuple of str
        Of them the prediction is an extrapolation.
    predicted_band_gap : float or None
        In eV, 0 for a metal; None if the model does not know levels.
    member_spread : float or None
        How far the members of the model are from each other, in eV; None if there is one.
    training_distance : float or None
        From the nearest training materials in the model's embedding, in standard deviations; None
        if they are not known.
    expected_error : float or None
        Wasserstein distance in eV that the spectrum is expected to have from that of DFT.
    probability : float or None
        That DFT finds the VB gap. Both are None if the model is not calibrated.
    predictor : SpectrumPredictor
        Whose it is.
    refusal : str or None
        Why the second predictor, which was to judge it again, has not.
    """

    candidate: Candidate
    spectrum: Spectrum
    verdict: dict[str, Any]
    criteria: GapCriteria
    model_id: str
    elements_not_trained_on: tuple[str, ...]
    predicted_band_gap: float | None
    member_spread: float | None
    training_distance: float | None
    expected_error: float | None
    probability: float | None
    predictor: SpectrumPredictor
    refusal: str | None = None

    @property
    def material_id(self) -> str:
        """Name of the structure: from its file, or its number among those given."""
        return self.candidate.material_id

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return self.candidate.formula

    @property
    def structure(self) -> Structure:
        """The structure in the cell that was judged: primitive, unless it was to be kept."""
        return self.candidate.structure.to_structure()

    @property
    def is_gap(self) -> bool:
        """Whether it has a VB gap by `criteria`."""
        return bool(self.verdict["is_gap"])

    @property
    def gap_edges(self) -> tuple[float, float] | None:
        """Lower and upper edge of the VB gap in eV, None if it has none."""
        return (self.verdict["lower_edge"], self.verdict["upper_edge"]) if self.is_gap else None

    @cached_property
    def band(self) -> np.ndarray | None:
        """Lower and upper end of the band that holds most of what DFT finds, shape (2, 128).

        In states/eV/cell; see :meth:`models.uncertainty.calibration.Calibration.band`. None if the
        model is not calibrated.
        """
        calibration = calibration_of(self.predictor.folder)
        if calibration is None or self.expected_error is None:
            return None
        return calibration.band(self.spectrum.values, self.expected_error)

    @cached_property
    def electronic_structure(self) -> ElectronicStructure | None:
        """Band edges, and the DOS by atom and shell, computed when first asked for.

        None if the model does not know levels: of the shipped predictors ``"tight-binding-edos"``
        does. It takes up to twice as long as the spectrum did.
        """
        return self.predictor.electronic_structure(self.candidate.structure)

    @cached_property
    def domain(self) -> Domain:
        """Whether the model can know it; its `in_domain` is the answer in one word."""
        training = Training(self.predictor.known, self.predictor.trained_on)
        return Domain.of_candidate(self.candidate, training, self.training_distance)

    @property
    def in_domain(self) -> InDomain | None:
        """``"yes"``, ``"near"`` or ``"no"``; the reasons are among the `remarks`."""
        return self.domain.in_domain

    @cached_property
    def nearest_materials(self) -> tuple[NearestMaterial, ...]:
        """The nearest training materials in the model's embedding, with what DFT says of them.

        Nearest first; none if the model's are not known.
        """
        neighbors = self.predictor.nearest_materials(self.candidate.structure)
        return with_labels(neighbors, self.spectrum, GapCriterion(self.criteria))

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What a reader should know before believing the verdict, one phrase each."""
        domain, candidate = self.domain, self.candidate
        remarks = [*domain.reasons, *domain.reservations, *domain.remarks, *candidate.remarks]
        if self.candidate.reduction_problem is not None:
            remarks.append(f"cell kept as given: {self.candidate.reduction_problem}")
        elif (multiplicity := self.candidate.cell_multiplicity or 1) > 1:
            n = self.candidate.nsites * multiplicity
            remarks.append(f"cell given with {n} atoms, reduced to 1/{multiplicity}")
        if self.refusal is not None:
            remarks.append(not_judged_again(RESCORE_WITH.name, self.refusal))
        return tuple(remarks)

    def gap(self) -> dict[str, Any]:
        """Verdict of :func:`screening.gap.find_gaps`, with the score.

        The range that it is about is the VB gap, or the nearest miss.

        Returns
        -------
        dict
            ``is_gap``, ``kind``, ``robust``, ``lower_edge``, ``upper_edge``, ``width`` (eV, None
            where nothing is below the threshold), ``is_lower_bound``, ``max_dos``
            (`criteria.unit`), ``n_ranges``, ``holds`` and ``margins`` by criterion, ``score`` (eV).
        """
        return dict(self.verdict)

    def to_dos(self) -> Dos:
        """The spectrum as pymatgen's DOS: bin centres in eV, densities in states/eV/cell.

        Its Fermi level is 0, the energy of the VBM. A band gap is not in it: bins below 0 are
        relative to the VBM and bins above 0 to the CBM, so pymatgen's `get_gap` does not apply.
        Both spins are in one channel.
        """
        from pymatgen.electronic_structure.core import Spin
        from pymatgen.electronic_structure.dos import Dos

        return Dos(0.0, self.spectrum.grid.centers, {Spin.up: self.spectrum.values})

    def plot(self, axes: Axes | None = None, *, projected: bool = False) -> Axes:
        """Draw the spectrum with the threshold and the VB gap, if it has one.

        Parameters
        ----------
        axes : Axes, optional
            Of a figure of one's own; else a new pyplot figure, which a notebook shows.
        projected : bool
            Draw its parts by element and shell instead.

        Raises
        ------
        ScreeningError
            If there are no parts, since the model does not know levels.
        """
        from screening.report.plots import draw_edos, draw_projected, new_panels

        axes = axes if axes is not None else new_panels(1)[0]
        if projected:
            if self.electronic_structure is None:
                raise ScreeningError(f"{self.model_id} knows no DOS by element and shell")
            return draw_projected(axes, self.electronic_structure, self.title, self.gap_edges)
        threshold = None if self.criteria.per_atom else self.criteria.max_dos
        return draw_edos(
            axes,
            self.spectrum.grid.centers,
            self.spectrum.values,
            self.title,
            self.gap_edges,
            threshold,
            model=model_name(self.model_id),
            band_gap=self.candidate.band_gap,
            band=self.band,
        )

    @property
    def title(self) -> str:
        """Formula and id, for figures."""
        from screening.report.plots import formula_text

        formula = formula_text(self.formula)
        return formula if self.material_id == ALONE else f"{formula} ({self.material_id})"

    def to_dataframe(self) -> pd.DataFrame:
        """One row, as in :meth:`Predictions.to_dataframe`."""
        return Predictions((self,), self.model_id).to_dataframe()

    def row(self) -> dict[str, Any]:
        """Everything but the spectrum, as `screen predict --json` prints it."""
        return {
            "material_id": self.material_id,
            "formula": self.formula,
            "nsites": self.candidate.nsites,
            "cell_multiplicity": self.candidate.cell_multiplicity,
            "reduction_problem": self.candidate.reduction_problem,
            **self.verdict,
            **({} if self.predicted_band_gap is None else {GAP_COLUMN: self.predicted_band_gap}),
            "model_id": self.model_id,
            "elements_not_trained_on": list(self.elements_not_trained_on),
            "in_domain": self.in_domain,
            "member_spread": self.member_spread,
            "training_distance": self.training_distance,
            "expected_error": self.expected_error,
            "probability": self.probability,
            "remarks": list(self.remarks),
        }

    def verdict_in_words(self) -> str:
        """Whether there is a VB gap, and where, or how near the nearest miss is."""
        verdict = self.verdict
        if verdict["lower_edge"] is None:
            return f"no VB gap: nowhere below {self.criteria.max_dos:g} {self.criteria.unit}"
        bound = "≥ " if verdict["is_lower_bound"] else ""
        where = f"{verdict['lower_edge']:.2f} to {verdict['upper_edge']:.2f} eV"
        what = "VB gap" if self.is_gap else "no VB gap, nearest miss"
        return f"{what} {where}, width {bound}{verdict['width']:.2f} eV"

    def __repr__(self) -> str:
        return f"<Prediction {self.material_id}: {self.formula}, {self.verdict_in_words()}>"

    def _repr_html_(self) -> str:
        gap, p = self.predicted_band_gap, self.probability
        rows = [
            ("formula", self.formula),
            ("atoms in the cell", str(self.candidate.nsites)),
            ("verdict", self.verdict_in_words()),
            ("kind", self.verdict["kind"] or "-"),
            ("robust", "yes" if self.verdict["robust"] else "no"),
            *([] if p is None else [("probability of a VB gap by DFT", f"{p:.2f}")]),
            *([] if gap is None else [("predicted band gap (eV)", f"{gap:.2f}")]),
            ("model", self.model_id),
            *(("remark", remark) for remark in self.remarks),
        ]
        highest = f"{self.spectrum.values.max():.3g}"
        picture = spectrum_html(
            self.spectrum.values,
            self.spectrum.grid.edges,
            f"Predicted eDOS, up to {highest} states/eV/cell; energies in eV relative to the band "
            f"edges{'; shaded: the VB gap' if self.gap_edges else ''}",
            self.gap_edges,
        )
        return html_table(f"Prediction of {self.material_id}", rows) + picture


class Predictions(Sequence["Prediction | Unreadable"]):
    """Predictions in the order of the structures given; what failed has its reason in its place.

    Parameters
    ----------
    items : sequence of Prediction or Unreadable
    model_id : str
        Of the first predictor.
    notes : tuple of str
        What the files' folders hold besides, and how many crystals are there twice.
    """

    def __init__(
        self,
        items: Sequence[Prediction | Unreadable],
        model_id: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._items = tuple(items)
        self.model_id = model_id
        self.notes = notes

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, i: int) -> Prediction | Unreadable: ...

    @overload
    def __getitem__(self, i: slice) -> Predictions: ...

    def __getitem__(self, i: int | slice) -> Prediction | Unreadable | Predictions:
        """One of them, or a part."""
        if isinstance(i, slice):
            return Predictions(self._items[i], self.model_id, self.notes)
        return self._items[i]

    @property
    def predicted(self) -> tuple[Prediction, ...]:
        """Those that have a spectrum."""
        return tuple(item for item in self._items if isinstance(item, Prediction))

    @property
    def failures(self) -> tuple[Unreadable, ...]:
        """Those that have none, each with `material_id` and `reason`."""
        return tuple(item for item in self._items if isinstance(item, Unreadable))

    def gap(self) -> list[dict[str, Any] | None]:
        """:meth:`Prediction.gap` of each, None where it failed."""
        return [item.gap() if isinstance(item, Prediction) else None for item in self._items]

    def to_dos(self) -> list[Dos | None]:
        """:meth:`Prediction.to_dos` of each, None where it failed."""
        return [item.to_dos() if isinstance(item, Prediction) else None for item in self._items]

    def plot(self, *, projected: bool = False) -> list[Axes]:
        """Draw each spectrum into a panel of its own, below each other.

        Parameters
        ----------
        projected : bool
            As for :meth:`Prediction.plot`.

        Raises
        ------
        ScreeningError
            If nothing was predicted.
        """
        from screening.report.plots import new_panels

        if not self.predicted:
            raise ScreeningError("nothing was predicted, so there is nothing to plot")
        panels = zip(self.predicted, new_panels(len(self.predicted)), strict=True)
        return [item.plot(axes, projected=projected) for item, axes in panels]

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each structure, in order; `reason` says why one failed.

        Columns are the keys of `screen predict --json`, with a column for each margin and none
        for the spectrum.
        """
        import pandas as pd

        rows = [_flat_row(item) for item in self._items]
        columns = [name for name in _COLUMNS if name != GAP_COLUMN or any(name in r for r in rows)]
        return pd.DataFrame(rows, columns=columns).astype(_DTYPES)

    def __repr__(self) -> str:
        lines = [f"<Predictions: {self._summary()}>", *(map(_in_words, self._items[:SHOWN_ROWS]))]
        return "\n  ".join([*lines, *self._rest()])

    def _repr_html_(self) -> str:
        rows = []
        for item in self._items[:SHOWN_ROWS]:
            if isinstance(item, Prediction):
                remark = "; ".join(item.remarks)
                rows.append((item.material_id, item.formula, item.verdict_in_words(), remark))
            else:
                rows.append((item.material_id, "", "failed", item.reason))
        header = ("structure", "formula", "verdict", "remark")
        table = html_table(self._summary(), rows, header)
        return "".join([table, *map(_paragraph, self._rest())])

    def _summary(self) -> str:
        n_gaps = sum(item.is_gap for item in self.predicted)
        models = sorted({item.model_id for item in self.predicted} or {self.model_id})
        return (
            f"{len(self)} structures, {n_gaps} with a VB gap, {len(self.failures)} failed; "
            f"{', '.join(models)}"
        )

    def _rest(self) -> list[str]:
        more = len(self) - SHOWN_ROWS
        return [f"... and {more:,} more"] if more > 0 else []


class _Options(TypedDict, total=False):
    checkpoint: str | Path | None
    device: str
    criteria: GapCriteria | None
    keep_cell: bool
    recursive: bool
    workers: int
    rescore: int | None


@overload
def predict(  # type: ignore[overload-overlap]  # a str is a path, though it is an iterable too
    what: FilePath, **options: Unpack[_Options]
) -> Prediction | Predictions: ...


@overload
def predict(what: Iterable[InMemory | FilePath], **options: Unpack[_Options]) -> Predictions: ...


@overload
def predict(what: InMemory, **options: Unpack[_Options]) -> Prediction: ...


def predict(
    what: InMemory | FilePath | Iterable[InMemory | FilePath],
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    criteria: GapCriteria | None = None,
    keep_cell: bool = False,
    recursive: bool = False,
    workers: int = 1,
    rescore: int | None = None,
) -> Prediction | Predictions:
    """Predict the electronic DOS of structures and judge whether they have a VB gap.

    The default predictor is fast, and the student of one that is dearer and nearer to DFT, which
    judges the best again, as in `screen run`: of fewer structures than
    :data:`~screening.second_predictor.RESCORED` all that it does not refuse.

    Parameters
    ----------
    what : Structure, Atoms, Crystal, path, or an iterable of these
        A path is that of a structure file, of a table, or of a folder of them
        (:func:`screening.sources.files.open_path`). For one structure, in memory or in a file,
        there is one result; for all else there is a sequence.
    checkpoint : path or str, optional
        Folder of a predictor, or the name of a shipped one; the default one otherwise.
    device : str
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
    criteria : GapCriteria, optional
        The paper's by default.
    keep_cell : bool
        Judge structures in the cell as given, not in their primitive cell: a DOS per cell grows
        with it.
    recursive : bool
        Whether the subfolders of a folder are read, too.
    workers : int
        Processes for many structures; more than one only from a script with a main guard.
    rescore : int, optional
        So many structures with the best scores are judged again by
        :data:`~screening.second_predictor.RESCORE_WITH`; what that refuses keeps its prediction,
        with the reason among the remarks. Without, as
        :func:`~screening.second_predictor.n_unless_asked` says.

    Returns
    -------
    Prediction or Predictions
        A structure that cannot be read or predicted is in the sequence with its reason.

    Raises
    ------
    ScreeningError
        If the only structure cannot be read or predicted, or `what` is something else, or
        `rescore` is negative, or asked for where it cannot be done, or `criteria` are of
        another type.
    ModelError
        If there is no such predictor or device.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from screening import predict
    >>> copper = Structure(Lattice.cubic(3.61), ["Cu"] * 4,
    ...                    [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    >>> result = predict(copper, device="cpu")
    >>> result.gap()["is_gap"], len(result.structure)
    (False, 1)
    >>> result.to_dos().efermi
    0.0
    >>> predict([copper, "missing.cif"], device="cpu").to_dataframe()["is_gap"].tolist()
    [False, <NA>]
    """
    criteria = GapCriteria() if criteria is None else criteria
    if not isinstance(criteria, GapCriteria):
        raise ScreeningError(
            f"criteria: {type(criteria).__name__} is none; use GapCriteria(max_dos=0.5) or the like"
        )
    folder = predictor_folder(checkpoint)
    n_again = _n_again(folder, rescore)
    given = read_given(what, recursive)
    if given.is_one and isinstance(given.items[0], Unreadable):
        raise _error(given.items[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook, tqdm asks for ipywidgets
        from models.predictor import SpectrumPredictor

    with closing(SpectrumPredictor.load(folder, device, EDOS_GRID)) as predictor:
        results = _predict(predictor, given.items, criteria, keep_cell, workers)
    if n_again:
        with closing(SpectrumPredictor.load(RESCORE_WITH, device, EDOS_GRID)) as second:
            _judge_again(second, results, n_again, criteria, workers)
    if not given.is_one:
        return Predictions(results, predictor.model_id, given.notes)
    (result,) = results
    if isinstance(result, Unreadable):
        raise _error(result)
    return result


def _n_again(folder: Path, rescore: int | None) -> int:
    """How many structures are judged again."""
    if rescore is None:
        return n_unless_asked(folder, RESCORE_WITH)
    if rescore < 0:
        raise ScreeningError(f"rescore {rescore}: must be 0 or more")
    if rescore and not can_judge_again(folder, RESCORE_WITH):
        raise ScreeningError(
            f"rescore {rescore}: {RESCORE_WITH.name} cannot judge again what {folder.name} "
            "predicts; use 0, or another checkpoint"
        )
    return rescore


def _judge_again(
    second: SpectrumPredictor,
    results: list[Prediction | Unreadable],
    n: int,
    criteria: GapCriteria,
    workers: int,
) -> None:
    """Replace predictions of the `n` best by a second predictor's, but for those it refuses."""
    first = {i: item for i, item in enumerate(results) if isinstance(item, Prediction)}
    ranked = sorted(first, key=lambda i: -first[i].verdict["score"])
    chosen: list[int] = []
    while ranked and len(chosen) < n:
        part, ranked = ranked[: n - len(chosen)], ranked[n - len(chosen) :]
        refusals = second.refusals([first[i].candidate.structure for i in part])
        for k, i in enumerate(part):
            if k in refusals:
                results[i] = replace(first[i], refusal=refusals[k])
            else:
                chosen.append(i)
    again = _predict(second, [first[i].candidate for i in chosen], criteria, True, workers)
    for i, item in zip(chosen, again, strict=True):
        if isinstance(item, Prediction):
            results[i] = item
        else:
            results[i] = replace(first[i], refusal=item.reason)


def _known(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def _error(failure: Unreadable) -> ScreeningError:
    if failure.material_id == ALONE:
        return ScreeningError(failure.reason)
    return ScreeningError(f"{failure.material_id}: {failure.reason}")


def _predict(
    predictor: SpectrumPredictor,
    items: Sequence[SourceItem],
    criteria: GapCriteria,
    keep_cell: bool,
    workers: int,
) -> list[Prediction | Unreadable]:
    """Reduce, predict and judge; results in the order of the items."""
    results: list[Prediction | Unreadable | None]
    results = [item if isinstance(item, Unreadable) else None for item in items]
    candidates = [
        (i, item if keep_cell else item.reduced())
        for i, item in enumerate(items)
        if isinstance(item, Candidate)
    ]
    spectra = predictor.predict([c.structure for _, c in candidates], workers=workers)
    for row, reason in spectra.failures.items():
        i, candidate = candidates[row]
        results[i] = Unreadable(candidate.material_id, reason)
    good = [row for row in range(len(candidates)) if row not in spectra.failures]
    nsites = np.array([candidates[row][1].nsites for row in good], int)
    gaps = find_gaps(spectra.grid, spectra.values[good], criteria, nsites)
    trust = trust_in(predictor.folder, GapCriterion(criteria))
    errors = probabilities = np.full(len(good), np.nan)
    if trust is not None:
        hints = spectra.member_spread[good], spectra.training_distance[good]
        errors = trust.calibration.expected_errors(*hints)
        probabilities = trust.probabilities(spectra.values[good], nsites, gaps.score, errors)
    for k, row in enumerate(good):
        i, candidate = candidates[row]
        results[i] = Prediction(
            candidate,
            Spectrum(spectra.values[row], spectra.grid, candidate.nsites),
            gaps.row(k) | {"score": float(gaps.score[k])},
            criteria,
            predictor.model_id,
            predictor.unfamiliar(candidate.structure),
            _known(spectra.band_gaps[row]),
            _known(spectra.member_spread[row]),
            _known(spectra.training_distance[row]),
            _known(errors[k]),
            _known(probabilities[k]),
            predictor,
        )
    return [result for result in results if result is not None]


# --- showing --------------------------------------------------------------------------------

_VERDICT = (
    "is_gap", "kind", "robust", "lower_edge", "upper_edge", "width", "is_lower_bound", "max_dos",
    "n_ranges", "score",
)  # fmt: skip
_COLUMNS = (
    "material_id", "formula", "nsites", "cell_multiplicity", "reduction_problem",
    *_VERDICT, *(f"margin_{name}" for name in CRITERIA),
    GAP_COLUMN, "model_id", "elements_not_trained_on", "in_domain", "member_spread",
    "training_distance", "expected_error", "probability", "remarks", "reason",
)  # fmt: skip

_DTYPES = {
    **dict.fromkeys(("is_gap", "robust", "is_lower_bound"), "boolean"),
    **dict.fromkeys(("nsites", "cell_multiplicity", "n_ranges"), "Int64"),
}  # that know missing values


def _flat_row(item: Prediction | Unreadable) -> dict[str, Any]:
    if isinstance(item, Unreadable):
        return {"material_id": item.material_id, "reason": item.reason}
    row = item.row()
    row |= {f"margin_{name}": row["margins"][name] for name in CRITERIA}
    row["elements_not_trained_on"] = " ".join(row["elements_not_trained_on"])
    row["remarks"] = "; ".join(row["remarks"])
    return {name: row[name] for name in _COLUMNS if name in row}


def _in_words(item: Prediction | Unreadable) -> str:
    if isinstance(item, Unreadable):
        return f"{item.material_id}: failed: {item.reason}"
    return f"{item.material_id}: {item.formula}, {item.verdict_in_words()}"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
