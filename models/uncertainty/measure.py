"""Ask a predictor for labelled materials, to calibrate it and to see how well that went."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.data.splits import SplitBy, split_of
from models.errors import ModelError
from models.training.card import ModelCard
from models.uncertainty.calibration import COVERAGE, Calibration
from models.uncertainty.held_out import HeldOut

if TYPE_CHECKING:
    from models.data.dataset import SpectrumDataset
    from models.predictor import SpectrumPredictor

_BATCH = 32  # materials at a time


def parts_for_calibration(
    predictor: SpectrumPredictor, dataset: SpectrumDataset
) -> tuple[SpectrumDataset, SpectrumDataset]:
    """What a predictor can be calibrated on, and what shows how well that went.

    The second is the test part of the split that the predictor was trained with, of which nothing
    is ever learned; the first is what is left without the training materials.

    Parameters
    ----------
    predictor : SpectrumPredictor
    dataset : SpectrumDataset
        Labels of DFT: those that it was trained with, or more.

    Raises
    ------
    ModelError
        If the predictor has no card.
    """
    card = ModelCard.read(predictor.folder)
    by: SplitBy = "chemsys" if card.split_by == "chemsys" else "material"
    split = split_of(dataset, card.split_seed, by)
    rows = split.validation
    if predictor.trained_on is not None:  # labels that came later are as good as validation
        learned = {material.material_id for material in predictor.trained_on.materials}
        not_test = np.setdiff1d(np.arange(len(dataset)), split.test)
        rows = np.array([i for i in not_test if dataset.material_ids[i] not in learned], int)
    return dataset.subset(rows), dataset.subset(split.test)


@torch.inference_mode()
def ask(predictor: SpectrumPredictor, dataset: SpectrumDataset) -> HeldOut:
    """Predictions for labelled materials beside their labels.

    Parameters
    ----------
    predictor : SpectrumPredictor
    dataset : SpectrumDataset
        In states/eV/cell; on the predictor's grid.

    Raises
    ------
    ModelError
        If the labels are shapes without a scale, or on another grid.
    """
    if dataset.shapes_only or dataset.grid != predictor.grid:
        raise ModelError("a calibration needs labels in states/eV/cell on the predictor's grid")
    dataset = dataset.without_refused(predictor.shape.model.refusal)
    graphs = [dataset.graphs.select(rows) for rows in torch.arange(len(dataset)).split(_BATCH)]
    predicted = [predictor.predict_batch(batch) for batch in graphs]
    return HeldOut(
        dataset.material_ids,
        dataset.chemical_systems,
        np.concatenate([p.values for p in predicted]).astype(float),
        dataset.spectra.numpy().astype(float),
        dataset.graphs.n_atoms.numpy().astype(float),
        np.concatenate([p.member_spread for p in predicted]).astype(float),
        np.concatenate([p.training_distance for p in predicted]).astype(float),
        dataset.grid,
    )


def band_figures(
    calibration: Calibration, test: HeldOut, known_systems: Collection[str] = ()
) -> dict[str, float]:
    """How well expected errors and bands fit materials that the calibration never saw.

    Parameters
    ----------
    calibration : Calibration
    test : HeldOut
    known_systems : collection of str
        Chemical systems that were trained on.

    Returns
    -------
    dict
        Materials (`n`), share of the bins in the band (`coverage`) and its standard error over
        the materials, the same for chemical systems that neither the predictor nor the
        calibration knows (`..._new_systems`), mean expected and actual error in the grid's unit,
        and the rank correlation of both (Spearman), unless all are expected to be the same.
    """
    from scipy.stats import spearmanr

    errors = calibration.expected_errors(test.member_spread, test.training_distance)
    covered = calibration.coverage(test)
    known = {*calibration.held_out.chemical_systems, *known_systems}
    is_new = np.array([system not in known for system in test.chemical_systems])
    figures = {"nominal_coverage": COVERAGE}
    for suffix, which in (("", np.ones(len(test), bool)), ("_new_systems", is_new)):
        if (n := int(which.sum())) > 1:
            figures |= {
                f"n{suffix}": n,
                f"coverage{suffix}": float(covered[which].mean()),
                f"coverage{suffix}_error": float(covered[which].std(ddof=1) / n**0.5),
            }
    figures |= {
        "expected_error": float(errors.mean()),
        "actual_error": float(test.errors.mean()),
    }
    if len(set(errors)) > 1:  # else there is no order
        figures["spearman"] = float(spearmanr(errors, test.errors).statistic)
    return figures
