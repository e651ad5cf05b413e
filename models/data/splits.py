"""Which materials are for training, for validation and for the test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from models.data.dataset import SpectrumDataset
from models.errors import ModelError, named

SplitBy = Literal["material", "chemsys"]
VALIDATION_SHARE = TEST_SHARE = 0.1
MADE_OF = "~"  # `mp-149~2` was made of mp-149, and is where that is


@dataclass(frozen=True)
class Split:
    """Which materials are for what.

    Parameters
    ----------
    train, validation, test : ndarray of int
        Their indices.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def refuse_leaks(self, material_ids: Sequence[str]) -> None:
        """Refuse a split that has a material in two of its parts.

        Parameters
        ----------
        material_ids : sequence of str, length n
            Of the data set that the indices are of.

        Raises
        ------
        ModelError
            Names the materials.
        """
        parts = ({material_ids[i] for i in p} for p in (self.train, self.validation, self.test))
        times = Counter(chain.from_iterable(parts))
        leaked = sorted(i for i, n in times.items() if n > 1)
        if leaked:
            raise ModelError(f"the split leaks: {named(leaked)} in more than one part")


def fold(name: str, seed: int) -> float:
    """Number in [0, 1) that belongs to a name and a seed, however the data set grows.

    What was made of a material (`MADE_OF`) has that of the material.

    Parameters
    ----------
    name : str
    seed : int

    Examples
    --------
    >>> round(fold("mp-149", seed=0), 3)
    0.549
    """
    digest = hashlib.sha256(f"{seed}:{name.partition(MADE_OF)[0]}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_dataset(
    names: Sequence[str],
    seed: int,
    validation: float = VALIDATION_SHARE,
    test: float = TEST_SHARE,
) -> Split:
    """Split by a hash of the names, so that a material stays in its part when others are added.

    Parameters
    ----------
    names : sequence of str
        A `material_id` each; or a chemical system each, which then is in one part as a whole.
    seed : int
    validation, test : float
        Their shares.
    """
    folds = np.array([fold(name, seed) for name in names])
    in_test = folds < test
    in_validation = ~in_test & (folds < test + validation)
    return _split_of_masks(~(in_test | in_validation), in_validation, in_test)


def part_of(name: str, seed: int) -> Literal["training", "validation", "test"]:
    """The part into which :func:`split_dataset` puts a name, whatever else is there.

    Parameters
    ----------
    name : str
        A `material_id` or a chemical system.
    seed : int

    Examples
    --------
    >>> part_of("mp-149", seed=0)
    'training'
    """
    number = fold(name, seed)
    if number < TEST_SHARE:
        return "test"
    return "validation" if number < TEST_SHARE + VALIDATION_SHARE else "training"


def split_of(dataset: SpectrumDataset, seed: int, by: SplitBy = "material") -> Split:
    """Split of a data set.

    Parameters
    ----------
    dataset : SpectrumDataset
    seed : int
    by : {'material', 'chemsys'}
        Random splits flatter: a material's neighbours of the same chemical system are in the
        training set. ``'chemsys'`` keeps a chemical system together. A data set that comes with
        its own split keeps its test part; only the validation part is taken from the rest.
    """
    names = dataset.material_ids if by == "material" else dataset.chemical_systems
    if not dataset.parts:
        return split_dataset(names, seed)
    in_test = np.array([part not in ("", "train") for part in dataset.parts])
    if by == "chemsys":  # nothing of a tested chemical system may be trained on
        tested = {name for name, test in zip(names, in_test, strict=True) if test}
        usable = np.array([name not in tested for name in names]) & ~in_test
    else:
        usable = ~in_test
    in_validation = np.array([fold(name, seed) < 0.1 for name in names]) & usable
    return _split_of_masks(usable & ~in_validation, in_validation, in_test)


def _split_of_masks(*masks: np.ndarray) -> Split:
    parts = [np.flatnonzero(mask) for mask in masks]
    if not all(map(len, parts)):
        raise ModelError(f"{sum(map(len, parts))} materials are too few to split")
    return Split(*parts)
