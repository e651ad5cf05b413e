"""A source that is read one shard after the other, by jobs of which each adds the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain

from db.documents import CandidateDoc
from screening.funnel import Funnel
from screening.sources import Source


class ShardReader:
    """The candidates of a source, up to one shard after the other.

    Parameters
    ----------
    source : Source
    funnel : Funnel
        Counts the documents.
    documents : iterator of CandidateDoc
        Of the source. Those that passed the filters have rising shards, the rejected have none.

    Examples
    --------
    >>> def document(name, shard=None):
    ...     return CandidateDoc(run_id="run", material_id=name, shard=shard)
    >>> documents = [document("a", 0), document("b"), document("c", 1), document("d", 2)]
    >>> reader = ShardReader(source=None, funnel=None, documents=iter(documents))
    >>> [d.material_id for d in reader.up_to(0)], [d.material_id for d in reader.up_to(1)]
    (['a', 'b'], ['c'])
    >>> [d.material_id for d in reader.up_to(2)], reader.is_done
    (['d'], True)
    """

    def __init__(self, source: Source, funnel: Funnel, documents: Iterator[CandidateDoc]) -> None:
        self.source, self.funnel = source, funnel
        self.shard, self.is_done = -1, False
        self._documents = documents
        self._next: list[CandidateDoc] = []  # the first of a later shard, which was taken already

    def up_to(self, shard: int) -> Iterator[CandidateDoc]:
        """The candidates that were not read yet, until the first of a later shard comes."""
        first, self._next = self._next, []
        for document in chain(first, self._documents):
            if document.shard is not None and document.shard > shard:
                self._next = [document]
                break
            yield document
        else:
            self.is_done = True
        self.shard = shard

    def skip_to(self, shard: int) -> None:
        """Read the shards before this one that were not read yet, and do nothing with them."""
        if self.shard < shard - 1:
            deque(self.up_to(shard - 1), maxlen=0)


OPEN_READERS: dict[str, ShardReader] = {}
"""By run, where this process can go on; in another one reading begins again, and skips."""
