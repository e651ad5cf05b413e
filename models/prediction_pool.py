"""Predicting in worker processes, without torch in the process that asks for it.

To load torch takes a second and a half of a core, and 200 MB.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from models.crystal import Crystal
from models.predicted_spectra import PredictedSpectra
from models.processes import WorkerPool
from models.zoo import gives_states

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.predictor import SpectrumPredictor

CHUNK = 256  # structures that a process gets at a time,
CHUNK_ATOMS = 8_000  # or fewer, if they are large: a chunk is about a second of a core's work,
STATES_CHUNK = 32  # as is this of a model that diagonalises matrices
FIRST_CHUNK = 32  # of the first one, and twice as many of each next: there is soon something to see
IN_PROCESS = 200  # fewer structures than this are not worth starting processes
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of which Linux has one where a GPU is


class DeferredPredictor:
    """A predictor that is loaded here only if no worker processes can do what is asked.

    Parameters
    ----------
    folder : Path
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.folder, self.device = folder, device
        self._pool: WorkerPool | None = None

    @cached_property
    def here(self) -> SpectrumPredictor:
        """The predictor in this process."""
        from models.predictor import SpectrumPredictor

        return SpectrumPredictor.load(self.folder, self.device)

    def start(self, workers: int) -> None:
        """Let a worker process load the predictor, while the structures are not there yet."""
        if workers > 1 and self._is_on_cpu:
            self._workers(workers).start()

    def predict_parts(
        self, structures: Iterable[Crystal | Structure], *, workers: int = 1
    ) -> Generator[PredictedSpectra]:
        """As :meth:`models.predictor.SpectrumPredictor.predict_parts`.

        Parameters
        ----------
        structures : iterable of Crystal or Structure
        workers : int
            Processes.
        """
        structures = iter(structures)
        fewest = 1 if self._pool or workers == 1 else IN_PROCESS
        first = list(islice(structures, fewest))
        structures = chain(first, structures)
        if workers > 1 and self._is_on_cpu and len(first) == fewest:
            given = chunks(structures, STATES_CHUNK if gives_states(self.folder) else CHUNK)
            yield from self._workers(workers).in_order(predict_in_worker, given)
        elif first:
            yield from self.here.predict_parts(structures, workers=workers)

    def refusals(self, structures: Sequence[Crystal | Structure]) -> dict[int, str]:
        """As :meth:`models.predictor.SpectrumPredictor.refusals`."""
        return self.here.refusals(structures)

    @cached_property
    def _is_on_cpu(self) -> bool:
        """Whether that is certain; only torch knows whether it can use a GPU that is there."""
        if self.device == "auto":
            return not any(Path(file).exists() for file in GPU_FILES)
        return self.device == "cpu"

    def _workers(self, workers: int) -> WorkerPool:
        if self._pool is None:
            self._pool = prediction_pool(self.folder, workers)
        return self._pool


def are_worth_processes(
    structures: Iterable[Crystal | Structure],
) -> tuple[bool, Iterable[Crystal | Structure]]:
    """Whether they are `IN_PROCESS` or more, and all of them."""
    rest = iter(structures)
    first = list(islice(rest, IN_PROCESS))
    return len(first) == IN_PROCESS, chain(first, rest)


def chunks(
    structures: Iterable[Crystal | Structure], size: int = CHUNK
) -> Iterator[list[Crystal | Structure]]:
    """Consecutive structures, at most `size` with `CHUNK_ATOMS` together; the first are fewer.

    Parameters
    ----------
    structures : iterable of Crystal or Structure
    size : int
    """
    chunk: list[Crystal | Structure] = []
    atoms, most = 0, min(FIRST_CHUNK, size)
    for structure in structures:
        if chunk and atoms + len(structure) > CHUNK_ATOMS:
            yield chunk
            chunk, atoms = [], 0
        chunk.append(structure)
        atoms += len(structure)
        if len(chunk) == most:
            yield chunk
            chunk, atoms, most = [], 0, min(2 * most, size)
    if chunk:
        yield chunk


def prediction_pool(folder: Path, workers: int) -> WorkerPool:
    """Processes with a predictor each, on one core; they do :func:`predict_in_worker`.

    Parameters
    ----------
    folder : Path
        Of the predictor.
    workers : int
    """
    return WorkerPool(workers, _prepare, (folder,))


_in_worker: SpectrumPredictor | None = None


def _prepare(folder: Path) -> None:
    global _in_worker
    import torch

    from models.predictor import SpectrumPredictor

    torch.set_num_threads(1)
    _in_worker = SpectrumPredictor.load(folder, device="cpu")


def predict_in_worker(structures: Sequence[Crystal | Structure]) -> PredictedSpectra:
    """Spectra of structures, in a process of :func:`prediction_pool`."""
    from models.graphs.graph import build_graphs

    assert _in_worker is not None
    graphs = build_graphs(structures, _in_worker.shape.card.graph)
    return _in_worker.predict_graphs(graphs)
