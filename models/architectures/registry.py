"""The architectures by name."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from models.architectures.e3nn import E3NN
from models.architectures.gatgnn import GATGNN
from models.architectures.interface import Architecture, ArchitectureConfig
from models.architectures.mat2spec.model import Mat2Spec
from models.architectures.mat2spec_plus import Mat2SpecPlus
from models.architectures.springs.model import SpringModel
from models.architectures.tight_binding.model import TightBinding
from models.errors import ModelError, describe
from models.graphs.graph import GraphConfig
from models.spectra.settings import Setting
from models.spectra.spectrum import EnergyGrid

ARCHITECTURES: dict[str, type[Architecture]] = {
    "mat2spec": Mat2Spec,
    "gatgnn": GATGNN,
    "e3nn": E3NN,
    "mat2spec+": Mat2SpecPlus,
    "springs": SpringModel,
    "tight-binding": TightBinding,
}


def build_model(architecture: str, size: int, config: dict[str, Any] | None = None) -> Architecture:
    """Untrained model.

    Parameters
    ----------
    architecture : str
        Name of one of the `ARCHITECTURES`.
    size : int
        Bins K' of the spectrum.
    config : dict, optional
        Fields of the architecture's configuration.

    Raises
    ------
    ModelError
        If the architecture is unknown, a field of its configuration is wrong, or a package
        that it needs is not installed.
    """
    return _known(architecture)(size, model_config(architecture, config))


def model_config(architecture: str, config: dict[str, Any] | None = None) -> ArchitectureConfig:
    """Checked configuration of an architecture, with its defaults.

    Parameters are those of :func:`build_model`.

    Raises
    ------
    ModelError
        If the architecture is unknown or a field is wrong.
    """
    try:
        return _known(architecture).Config.model_validate(config or {})
    except ValidationError as error:
        raise ModelError(f"{architecture} configuration, {describe(error)}") from None


def unsuited(architecture: str, setting: Setting | type[Setting], grid: EnergyGrid) -> str:
    """Why an architecture does not predict such spectra; empty if it does.

    Parameters
    ----------
    architecture : str
    setting : Setting
        An object or a class.
    grid : EnergyGrid

    Examples
    --------
    >>> from models.spectra.settings import SETTINGS
    >>> from models.spectra.spectrum import EDOS_GRID
    >>> unsuited("springs", SETTINGS["standard-mae"], EDOS_GRID)[:41]
    'springs predicts phonon spectra with the '
    """
    known = _known(architecture)
    if known.suits(setting, grid):
        return ""
    return (
        f"{architecture} predicts {known.predicts} only, "
        f"not {setting.name} on a grid in {grid.unit}"
    )


def config_for(
    architecture: str, config: dict[str, Any], setting: Setting, grid: EnergyGrid
) -> dict[str, Any]:
    """The configuration with the setting's `output` and the grid, where they matter.

    Parameters
    ----------
    architecture : str
    config : dict
        Fields of the architecture's configuration.
    setting : Setting
    grid : EnergyGrid

    Raises
    ------
    ModelError
        If the architecture does not predict such spectra.
    """
    if reason := unsuited(architecture, setting, grid):
        raise ModelError(reason)
    fields = _known(architecture).Config.model_fields
    facts = {"output": setting.output, "grid": grid.model_dump()}
    return config | {name: value for name, value in facts.items() if name in fields}


def n_members_apart(architecture: str, config: dict[str, Any]) -> int:
    """How many members are trained each on its own; 1 of what is trained as a whole.

    Parameters
    ----------
    architecture : str
    config : dict
        Fields of the architecture's configuration.

    Examples
    --------
    >>> n_members_apart("tight-binding", {"members": 2}), n_members_apart("springs", {"members": 2})
    (2, 1)
    """
    if not _known(architecture).members_apart:
        return 1
    n: int = model_config(architecture, config).model_dump()["members"]
    return n


def graphs_for(architecture: str, graph: GraphConfig) -> GraphConfig:
    """The graphs that an architecture needs, such as with edge vectors.

    Parameters
    ----------
    architecture : str
    graph : GraphConfig
        What they must have besides.

    Examples
    --------
    >>> graphs_for("springs", GraphConfig()).vectors
    True
    """
    return _known(architecture).graphs(graph)


def _known(architecture: str) -> type[Architecture]:
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"unknown architecture {architecture!r}; there are {known}")
    return ARCHITECTURES[architecture]
