"""How far predicted spectra are from the labels (Table 1 and Methods, 'Evaluation')."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from models.spectra.spectrum import sum_normalized

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")


def r2(prediction: np.ndarray, label: np.ndarray) -> float:
    """Coefficient of determination over all bins, with the mean label of each bin.

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
    """
    residual = ((prediction - label) ** 2).sum()
    return float(1 - residual / ((label - label.mean(0)) ** 2).sum())


def mae(prediction: np.ndarray, label: np.ndarray) -> float:
    """Mean absolute error over all bins, in the unit of the spectra.

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
    """
    return float(np.abs(prediction - label).mean())


def absolute_errors(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean absolute error of each material over its bins, shape (n,).

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
    """
    return np.abs(prediction - label).mean(-1)


def mse(prediction: np.ndarray, label: np.ndarray) -> float:
    """Mean squared error over all bins, in the squared unit of the spectra.

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
    """
    return float(((prediction - label) ** 2).mean())


def wasserstein_of_shapes(prediction: Array, label: Array, bin_width: float = 1.0) -> Array:
    """Wasserstein-1 distance of each pair of SumNorm spectra, in numpy or torch.

    The sum over the bins of the difference of the cumulative distributions, times the bin width.

    Parameters
    ----------
    prediction, label : ndarray or Tensor, shape (..., K')
        With the sum 1.
    bin_width : float
        In eV or cm^-1, which is then the unit of the distance; without, that is the bin.

    Returns
    -------
    ndarray or Tensor, shape (...,)

    Examples
    --------
    >>> wasserstein_of_shapes(np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]]), 0.5)
    array([1.])
    """
    return abs((prediction - label).cumsum(-1)).sum(-1) * bin_width


def wasserstein_distances(
    prediction: np.ndarray, label: np.ndarray, bin_width: float
) -> np.ndarray:
    """Wasserstein-1 distance of the shapes of each pair of spectra, shape (n,).

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
        Of any scale.
    bin_width : float
        In eV or cm^-1, which is then the unit of the distance.
    """
    shapes = sum_normalized(prediction), sum_normalized(label)
    return wasserstein_of_shapes(*shapes, bin_width)


def wasserstein(prediction: np.ndarray, label: np.ndarray, bin_width: float) -> float:
    """Mean over materials of :func:`wasserstein_distances`.

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
        Of any scale.
    bin_width : float
        In eV or cm^-1, which is then the unit of the distance.
    """
    return float(wasserstein_distances(prediction, label, bin_width).mean())


def quintile_examples(errors: np.ndarray) -> list[int]:
    """Material in the middle of each fifth of the errors, from the best to the worst."""
    order = np.argsort(errors, kind="stable")
    return [int(part[len(part) // 2]) for part in np.array_split(order, 5) if len(part)]


def spectrum_metrics(
    prediction: np.ndarray, label: np.ndarray, bin_width: float
) -> dict[str, float]:
    """The four columns of the paper's tables: R2, MAE, MSE and WD.

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
    bin_width : float
        In eV or cm^-1, which is then the unit of WD.
    """
    return {
        "r2": r2(prediction, label),
        "mae": mae(prediction, label),
        "mse": mse(prediction, label),
        "wd": wasserstein(prediction, label, bin_width),
    }


def standard_errors(
    prediction: np.ndarray, label: np.ndarray, bin_width: float
) -> dict[str, float]:
    """Standard errors of MAE, MSE and WD as means over materials.

    They say how much the figures would differ with other test materials of the same kind.

    Parameters
    ----------
    prediction, label : ndarray, shape (n, K')
    bin_width : float
        In eV or cm^-1, which is then the unit of WD.
    """
    of_materials = {
        "mae": absolute_errors(prediction, label),
        "mse": ((prediction - label) ** 2).mean(-1),
        "wd": wasserstein_distances(prediction, label, bin_width),
    }
    if len(label) < 2:
        return {}
    root = np.sqrt(len(label))
    return {name: float(v.std(ddof=1) / root) for name, v in of_materials.items()}
