"""A predictor in worker processes, without torch in the process that asks for it.

To load torch takes a second and a half of a core, and 200 MB.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from models.chunks import CHUNK, IN_PROCESS, STATES_CHUNK, chunks
from models.crystal import Crystal
from models.predicted_spectra import PredictedSpectra
from models.processes import WorkerPool
from models.zoo import gives_states

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.predictor import SpectrumPredictor

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
        if workers > 1 and self._is_on_cpu and self._pool is None:
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
            yield from self._workers(workers).in_order(_predict, given)
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
            self._pool = WorkerPool(workers, _prepare, (self.folder,))
        return self._pool


@lru_cache(maxsize=1)
def deferred_predictor(folder: str, device: str) -> DeferredPredictor:
    """The predictor of this process.

    Parameters
    ----------
    folder : str
    device : str
    """
    return DeferredPredictor(Path(folder), device)


def _prepare(folder: Path) -> None:
    from models.predictor import prepare_worker

    prepare_worker(folder)


def _predict(structures: Sequence[Crystal | Structure]) -> PredictedSpectra:
    from models.predictor import predict_in_worker

    return predict_in_worker(structures)
