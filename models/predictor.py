"""Structures in, spectra out: the hot path from a trained pair of checkpoints."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.architectures.interface import Insights, StatesArchitecture
from models.architectures.parts.neighbor_sums import predict_fast
from models.chunks import CHUNK, STATES_CHUNK, are_worth_processes, chunks
from models.crystal import Crystal
from models.elements import KnownElements
from models.errors import ModelError
from models.graphs.graph import (
    CrystalGraph,
    GraphBatch,
    build_graphs,
    collate,
    edge_budget_batches,
)
from models.predicted_spectra import PredictedSpectra
from models.processes import WorkerPool
from models.spectra.electronic_structure import ElectronicStructure
from models.spectra.spectrum import EnergyGrid
from models.threads import torch_threads
from models.training.checkpoint import Checkpoint, load_checkpoint
from models.training.materials import Neighbor, TrainingMaterials, load_training_materials
from models.zoo import check_grid, model_id, predictor_folder, predictor_parts

if TYPE_CHECKING:
    from pymatgen.core import Structure

log = logging.getLogger(__name__)

# Messages of a batch should fit the processor's cache, or fill the GPU.
EDGE_BUDGET = {"cpu": 4_000, "cuda": 1_000_000}


def usable_device(name: str) -> str:
    """Name of a device that torch can use; for ``"auto"`` a GPU, else the CPU.

    Raises
    ------
    ModelError
        If the device is not there, torch was not built for it, or it is neither of the two.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        try:
            return usable_device("cuda")
        except ModelError as error:
            log.warning("%s; going on with the CPU", error)
            return "cpu"
    if name.partition(":")[0] not in EDGE_BUDGET:
        raise ModelError(f"device {name}: predictions run on {' or '.join(EDGE_BUDGET)} only")
    try:
        torch.ones(1, device=name).sum().item()  # an empty tensor needs no kernel
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        if name.startswith("cuda") and torch.cuda.is_available():
            why = str(error).partition("\n")[0]
            raise ModelError(f"device {name}: torch cannot use it ({why}); use cpu") from None
        raise ModelError(f"device {name}: torch finds none here; use auto or cpu") from None
    return name


class SpectrumPredictor:
    """A predictor: of the eDOS one model for the shape (SumNorm), one for the scale (Standard).

    Of the phonon DOS there is a shape only. Use :meth:`load`.

    Parameters
    ----------
    shape, scale : Checkpoint
        The same where one model gives states/eV/cell by itself, or phonons, which have no scale.
    folder : Path
        Where they are.
    trained_on : TrainingMaterials, optional
        What the model of the shape was trained on.

    Examples
    --------
    >>> predictor = SpectrumPredictor.load()  # doctest: +SKIP
    >>> predictor.predict([structure]).values.shape  # doctest: +SKIP
    (1, 128)
    """

    def __init__(
        self,
        shape: Checkpoint,
        scale: Checkpoint,
        folder: Path,
        trained_on: TrainingMaterials | None = None,
    ) -> None:
        if shape.card.grid != scale.card.grid or shape.card.graph != scale.card.graph:
            raise ModelError(f"{folder}: its two checkpoints have different grids or graphs")
        self.shape, self.scale, self.folder, self.trained_on = shape, scale, folder, trained_on
        self._pool: WorkerPool | None = None
        self.grid = shape.card.grid
        trained = frozenset(shape.card.elements) & frozenset(scale.card.elements)
        self.known = KnownElements(trained, shape.model.stand_ins)
        self.model_id = model_id(folder)

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        device: str = "auto",
        grid: EnergyGrid | None = None,
    ) -> SpectrumPredictor:
        """Read a pair of checkpoints.

        Parameters
        ----------
        folder : str or Path, optional
            With ``sumnorm-kl`` and ``standard-mae`` as ``.safetensors`` and ``.json``, or the name
            of a shipped predictor, such as ``"mat2spec-edos"``; see
            :func:`models.zoo.predictor_folder`.
        device : str
            ``"auto"``: a GPU if there is one.
        grid : EnergyGrid, optional
            Grid that the caller relies on.

        Raises
        ------
        ModelError
            If a checkpoint is missing or damaged, or has another grid than `grid`, or there is
            no such device; or the list of training materials, which may be missing, is damaged.
        """
        folder = predictor_folder(folder)
        device = usable_device(device)
        parts = [load_checkpoint(folder / name, device) for name in predictor_parts(folder)]
        for part in parts:
            predict_fast(part.model)
        trained_on = load_training_materials(folder)
        predictor = cls(parts[0], parts[-1], folder.resolve(), trained_on)
        if grid is not None:
            check_grid(folder, predictor.grid, grid)
        return predictor

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.shape.model.parameters()).device

    def unfamiliar(self, crystal: Crystal) -> tuple[str, ...]:
        """Elements of the crystal that the model cannot know: the prediction extrapolates."""
        return tuple(self.known.unseen(crystal.elements))

    def predict(
        self,
        structures: Sequence[Crystal | Structure],
        *,
        workers: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> PredictedSpectra:
        """Predict the spectra of structures.

        Parameters
        ----------
        structures : sequence of Crystal or Structure
        workers : int
            Processes. On a CPU each does everything for its share; with a GPU they build the
            graphs. They stay for the next call.
        progress : callable, optional
            Called with the number of structures done since the last call.

        Raises
        ------
        ModelError
            If a worker process dies. A structure that cannot be predicted is a failure instead.
        """
        parts = [PredictedSpectra.unknown(0, self.grid)]
        for part in self.predict_parts(structures, workers=workers):
            parts.append(part)
            if progress:
                progress(len(part.values))
        return PredictedSpectra.joined(parts)

    def predict_parts(
        self, structures: Iterable[Crystal | Structure], *, workers: int = 1
    ) -> Generator[PredictedSpectra]:
        """Predict like :meth:`predict`, and give the spectra of some structures as they are done.

        The parts come in the order of the structures, which are taken as they are needed. A caller
        that stops early, or is interrupted, ends the worker processes.

        Parameters
        ----------
        structures : iterable of Crystal or Structure
        workers : int
            Processes.

        Raises
        ------
        ModelError
            If a worker process dies.
        """
        graph, on_cpu = self.shape.card.graph, self.device.type == "cpu"
        is_slow = on_cpu and isinstance(self.shape.model, StatesArchitecture)
        size = STATES_CHUNK if is_slow else CHUNK
        are_many = False
        if workers > 1:
            are_many, structures = are_worth_processes(structures)
        if not are_many:
            with torch_threads(1 if on_cpu else None):
                for chunk in chunks(structures, size):
                    yield self._predict_graphs(build_graphs(chunk, graph))
            return
        if self._pool is None:
            folder = self.folder if on_cpu else None
            self._pool = WorkerPool(workers, prepare_worker, (folder,))
        if on_cpu:
            yield from self._pool.in_order(predict_in_worker, chunks(structures, size))
        else:
            graphs = self._pool.in_order(partial(build_graphs, config=graph), chunks(structures))
            yield from map(self._predict_graphs, graphs)

    def refusals(self, structures: Sequence[Crystal | Structure]) -> dict[int, str]:
        """Which structures :meth:`predict` would fail on, and why, without predicting any."""
        graphs = build_graphs(structures, self.shape.card.graph)
        return _failures(_refused(graphs, self.shape))

    def close(self) -> None:
        """End the worker processes."""
        if self._pool:
            self._pool.close()
            self._pool = None

    def _predict_graphs(self, graphs: list[CrystalGraph | str]) -> PredictedSpectra:
        return _predict_in_batches(
            self.shape, self.states_and_insights, graphs, self.device, self.trained_on
        )

    def states_and_insights(self, batch: GraphBatch) -> tuple[torch.Tensor, Insights]:
        """Spectra (B, K') in states/eV/cell, and what the model of the shape says besides.

        Those of phonons are shapes.

        The spectra of two models are the shape times the predicted sum.
        """
        if isinstance(self.shape.model, StatesArchitecture):
            return self.shape.model.states_and_insights(batch)
        logits, insights = self.shape.model.logits_and_insights(batch)
        shape = self.shape.setting.decode(logits, batch.n_atoms)
        if self.scale is self.shape:
            return shape, insights
        scale = self.scale.setting.decode(self.scale.model(batch), batch.n_atoms)
        return shape * scale.sum(-1, keepdim=True), insights

    @torch.inference_mode()
    def predict_batch(self, batch: GraphBatch) -> PredictedSpectra:
        """Predict the spectra of graphs that are built already, such as those of a data set."""
        predicted = PredictedSpectra.unknown(len(batch), self.grid)
        on_device = self.states_and_insights(batch.to(self.device))
        _fill(predicted, range(len(batch)), *on_device, self.trained_on)
        return predicted

    @torch.inference_mode()
    def nearest_materials(self, structure: Crystal | Structure) -> tuple[Neighbor, ...]:
        """The nearest training materials of a structure; none if they are not known.

        Raises
        ------
        ModelError
            If the structure cannot be predicted.
        """
        batch = self._batch_of(structure)
        embedding = self.shape.model.embedding(batch)
        if embedding is None or self.trained_on is None:
            return ()
        return self.trained_on.nearest(embedding[0].cpu().numpy())

    def _batch_of(self, structure: Crystal | Structure) -> GraphBatch:
        (graph,) = _refused(build_graphs([structure], self.shape.card.graph), self.shape)
        if isinstance(graph, str):
            raise ModelError(graph)
        return collate([graph]).to(self.device)

    @torch.inference_mode()
    def electronic_structure(self, structure: Crystal | Structure) -> ElectronicStructure | None:
        """Band edges and the DOS by atom and shell; None if the model does not know levels.

        Raises
        ------
        ModelError
            If the structure cannot be predicted.

        Examples
        --------
        >>> import numpy as np
        >>> predictor = SpectrumPredictor.load("tight-binding-edos", "cpu")
        >>> fcc = 2.82 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
        >>> salt = Crystal(fcc, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])
        >>> structure = predictor.electronic_structure(salt)
        >>> structure.is_metal, structure.projected_dos.shape  # atom, shell, bin
        (False, (2, 4, 128))
        """
        model = self.shape.model
        if not isinstance(model, StatesArchitecture):
            return None
        batch = self._batch_of(structure)
        with torch_threads(1 if self.device.type == "cpu" else None):
            return model.electronic_structure(batch)


def predict_spectra(
    checkpoint: Checkpoint, structures: Sequence[Crystal | Structure]
) -> PredictedSpectra:
    """Spectra by one model alone, as its setting decodes them: a phonon DOS, or a shape.

    Structures that cannot be predicted are failures with their reason.

    Parameters
    ----------
    checkpoint : Checkpoint
    structures : sequence of Crystal or Structure

    Examples
    --------
    >>> from models.zoo import ZOO
    >>> from models.training.checkpoint import load_checkpoint
    >>> checkpoint = load_checkpoint(ZOO / "springs-phdos" / "sumnorm-wd")  # doctest: +SKIP
    >>> spectra = predict_spectra(checkpoint, [structure])  # doctest: +SKIP
    >>> spectra.grid.centers[:2], spectra.values.shape  # doctest: +SKIP
    (array([-300., -280.]), (1, 66))
    """

    def spectra(batch: GraphBatch) -> tuple[torch.Tensor, Insights]:
        logits, insights = checkpoint.model.logits_and_insights(batch)
        return checkpoint.setting.decode(logits, batch.n_atoms), insights

    device = next(checkpoint.model.parameters()).device
    graphs = build_graphs(structures, checkpoint.card.graph)
    return _predict_in_batches(checkpoint, spectra, graphs, device)


@torch.inference_mode()
def _predict_in_batches(
    checkpoint: Checkpoint,
    spectra: Callable[[GraphBatch], tuple[torch.Tensor, Insights]],
    graphs: list[CrystalGraph | str],
    device: torch.device,
    trained_on: TrainingMaterials | None = None,
) -> PredictedSpectra:
    """Spectra and insights, and where there is no graph the reason for that."""
    grid = checkpoint.card.grid
    predicted = PredictedSpectra.unknown(len(graphs), grid)
    graphs = _refused(graphs, checkpoint)
    predicted.failures.update(_failures(graphs))
    rows = [i for i in range(len(graphs)) if i not in predicted.failures]
    built = [graph for graph in graphs if not isinstance(graph, str)]
    n_edges = [len(graph.distance) for graph in built]
    batches = deque(edge_budget_batches(n_edges, EDGE_BUDGET[device.type]))
    while batches:
        members = batches.popleft()
        places = [rows[k] for k in members]
        try:
            batch = collate([built[k] for k in members]).to(device)
            _fill(predicted, places, *spectra(batch), trained_on)
        except torch.OutOfMemoryError:
            if len(members) == 1:
                predicted.failures[places[0]] = "the GPU has too little memory for it"
                continue
            half = len(members) // 2
            batches.extendleft((members[half:], members[:half]))
    return predicted


def _fill(
    predicted: PredictedSpectra,
    rows: Sequence[int],
    spectra: torch.Tensor,
    insights: Insights,
    trained_on: TrainingMaterials | None,
) -> None:
    """Write what a pass said of a batch into its rows."""
    predicted.values[rows] = spectra.cpu().numpy()
    if insights.band_gaps is not None:
        predicted.band_gaps[rows] = insights.band_gaps.cpu().numpy()
    if insights.member_spread is not None:
        spread = predicted.grid.width * insights.member_spread
        predicted.member_spread[rows] = spread.cpu().numpy()
    if insights.embedding is not None and trained_on is not None:
        embedding = insights.embedding
        distances = trained_on.distances(embedding.cpu().numpy(), embedding.device)
        predicted.training_distance[rows] = distances


def _refused(graphs: list[CrystalGraph | str], checkpoint: Checkpoint) -> list[CrystalGraph | str]:
    """Graphs with the reason in the place of each that the model refuses."""
    refusal = checkpoint.model.refusal
    return [g if isinstance(g, str) else refusal(g.atomic_numbers) or g for g in graphs]


def _failures(graphs: list[CrystalGraph | str]) -> dict[int, str]:
    return {i: graph for i, graph in enumerate(graphs) if isinstance(graph, str)}


_in_worker: SpectrumPredictor | None = None


def prepare_worker(folder: Path | None) -> None:
    """Load a predictor into a worker process, for one core; one that builds graphs needs none."""
    global _in_worker
    torch.set_num_threads(1)
    if folder is not None:
        _in_worker = SpectrumPredictor.load(folder, device="cpu")


def predict_in_worker(structures: Sequence[Crystal | Structure]) -> PredictedSpectra:
    """Spectra by the predictor of :func:`prepare_worker`."""
    assert _in_worker is not None
    graphs = build_graphs(structures, _in_worker.shape.card.graph)
    return _in_worker._predict_graphs(graphs)
