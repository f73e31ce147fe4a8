"""The spool: where the tokens of planned shards wait on disk until they are asked for."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from moetrace.store.errors import MoetraceError
from moetrace.tracer.plan.shards import PlannedShard

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from moetrace.tracer.plan.tokens import Tokens

# Shards that stay in memory after they were asked for: more than an engine has under way at the usual sizes.
LOADED = 16

SCHEMA = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("token_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    ]
)


class TokenSource(Protocol):
    """Who has the tokens of shards: a spool of this process, or another process's."""

    def load(self, index: int) -> Loaded:
        """Return what is kept of the shard of that number."""


class SpooledShard(PlannedShard):
    """A planned shard whose sizes are known and whose arrays are read from the spool when they are asked for.

    Pickled, or copied, it becomes a PlannedShard that holds its arrays: another process needs no spool.
    """

    def __init__(
        self,
        spool: TokenSource,
        index: int,
        *,
        lang: str,
        number: int,
        first: int,
        texts: int,
        tokens: int,
        truncated: int,
    ) -> None:
        sizes = {"_first": first, "_texts": texts, "_tokens": tokens, "_truncated": truncated}
        # Not the parent's __init__: that one wants the arrays. The class is frozen, hence through __dict__.
        self.__dict__.update({"lang": lang, "number": number, "_spool": spool, "_index": index, **sizes})

    _spool: TokenSource
    _index: int
    _first: int
    _texts: int
    _tokens: int
    _truncated: int

    @property
    def seqs(self) -> npt.NDArray[np.int32]:
        """Return the number of each text in its language: int32 [texts]."""
        return np.arange(self._first, self._first + self._texts, dtype=np.int32)

    @property
    def text_ids(self) -> tuple[str, ...]:
        """Return the id of each text."""
        return self._loaded().text_ids

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """Tell which texts were cut to the model's window: bool [texts]."""
        return self._loaded().truncated

    @property
    def token_ids(self) -> tuple[npt.NDArray[np.int32], ...]:
        """Return the tokens of each text, one int32 array a text."""
        return self._loaded().token_ids

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the shard; nothing is read."""
        return self._tokens

    @property
    def texts(self) -> int:
        """Return the number of texts of the shard; nothing is read."""
        return self._texts

    @property
    def truncated_texts(self) -> int:
        """Return how many of the texts were cut to the model's window; nothing is read."""
        return self._truncated

    def __repr__(self) -> str:
        return f"SpooledShard({self.key}, {self._texts} texts, {self._tokens} tokens)"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlannedShard, (self.lang, self.number, self.seqs, self.text_ids, self.truncated, self.token_ids)

    def _loaded(self) -> Loaded:
        return self._spool.load(self._index)


@dataclass(frozen=True)
class Loaded:
    """What the spool keeps of a shard; the arrays are parts of one buffer."""

    text_ids: tuple[str, ...]
    truncated: npt.NDArray[np.bool_]
    token_ids: tuple[npt.NDArray[np.int32], ...]


class Spool:
    """A temporary Arrow file with one record batch a shard: written once, sealed, then read in any order.

    The file has no name: it is gone when the spool is closed or collected, or the process ends, however it ends.
    """

    def __init__(self) -> None:
        """Open a spool in the folder for temporary files (TMPDIR)."""
        self._file = tempfile.TemporaryFile(prefix="moetrace-plan-")  # noqa: SIM115  closed by close
        self._writer: pa.ipc.RecordBatchFileWriter | None = pa.ipc.new_file(self._file, SCHEMA)
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._count = 0
        self._loaded: OrderedDict[int, Loaded] = OrderedDict()  # the last ones asked for; the latest at the end

    def add(
        self,
        lang: str,
        number: int,
        first: int,
        text_ids: Sequence[str],
        truncated: npt.NDArray[np.bool_],
        tokens: Tokens,
    ) -> SpooledShard:
        """Write a shard: ids, whether truncated, and tokens of texts first, first + 1, ... of the language.

        Raises MoetraceError where the disk is full.
        """
        if self._writer is None:
            raise RuntimeError("a sealed spool takes no more shards")
        ends = np.concatenate([[0], np.cumsum(tokens.lengths)]).astype(np.int32)
        token_ids = pa.ListArray.from_arrays(ends, tokens.ids, type=SCHEMA.field("token_ids").type)
        columns = [pa.array(text_ids, pa.string()), pa.array(truncated, pa.bool_()), token_ids]
        try:
            self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        except OSError as error:
            raise self._no_room(error) from error
        self._count += 1
        sizes = {"texts": len(text_ids), "tokens": len(tokens.ids), "truncated": int(truncated.sum())}
        return SpooledShard(self, self._count - 1, lang=lang, number=number, first=first, **sizes)

    def seal(self) -> None:
        """End writing; shards can be read from now on. Raises MoetraceError where the disk is full."""
        if self._writer is not None:
            try:
                self._writer.close()
                self._file.flush()
            except OSError as error:
                raise self._no_room(error) from error
            self._writer, self._reader = None, pa.ipc.open_file(self._file)

    def close(self) -> None:
        """Give the disk space back; shards that are not in memory can no longer be read."""
        self._loaded.clear()
        self._writer = self._reader = None
        self._file.close()

    def load(self, index: int) -> Loaded:
        """Return what was kept of the shard that was added as number `index`."""
        if index in self._loaded:
            self._loaded.move_to_end(index)
        else:
            self._loaded[index] = self._read(index)
            if len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
        return self._loaded[index]

    def _read(self, index: int) -> Loaded:
        if self._reader is None:
            raise RuntimeError("the plan is closed, or still being made: its shards cannot be read")
        text_ids, truncated, token_ids = self._reader.get_batch(index).columns
        flat, ends = token_ids.values.to_numpy(), token_ids.offsets.to_numpy()
        return Loaded(
            tuple(text_ids.to_pylist()),
            truncated.to_numpy(zero_copy_only=False),
            tuple(flat[start:end] for start, end in pairwise(ends)),
        )

    def _no_room(self, error: OSError) -> MoetraceError:
        return MoetraceError(
            f"{tempfile.gettempdir()}: cannot keep the tokenised corpus there ({error}); it takes some 4 bytes a "
            f"token: free some space, or set TMPDIR to another folder"
        )
