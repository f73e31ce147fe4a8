"""A shard in memory, its checks, and the order in which its tokens are numbered."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError
from moetrace.store.format.layout import shard_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.store.format.plan_record import FailedText
    from moetrace.store.format.records import RunRecord

SUM_TOLERANCE = 0.02  # of the scale: a bf16 router's renormalised weights miss 1 by up to 0.4 % each


@dataclass(frozen=True)
class Shard:
    """What was traced for some texts of one language, in the order of the texts.

    Shapes: S sequences, T tokens (sum of lengths), L MoE layers ascending, k experts a token, E experts a layer.

    - seqs: int32 [S], number of each text in its language
    - text_ids: S strings
    - lengths: int32 [S], tokens of each text
    - truncated: bool [S]
    - token_ids: int32 [T], text after text, or None where nobody knows them
    - experts: uint8 | uint16 [L, k, T], in any order within a token
    - weights: float32 [L, k, T], aligned with experts, as the layer applies them
    - profiles: float32 [L, S, E], mean router probability of each text, or None where profiles are not traced
    - generated: int32 [S], how many of a text's tokens, the last ones, the model generated; None: none of any
    - texts: S strings, what the model generated; None where it was not asked to
    - token_positions: int32 [T], ascending in each text; None: every text has its positions from 0 on, none left out
    - set_aside: texts of the shard that are not among these, because nothing is left of them
    """

    lang: str
    number: int
    seqs: npt.NDArray[np.int32]
    text_ids: Sequence[str]
    lengths: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]
    token_ids: npt.NDArray[np.int32] | None
    experts: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    weights: npt.NDArray[np.float32]
    profiles: npt.NDArray[np.float32] | None
    generated: npt.NDArray[np.int32] | None = None
    texts: Sequence[str] | None = None
    token_positions: npt.NDArray[np.int32] | None = None
    set_aside: Sequence[FailedText] = ()

    @property
    def key(self) -> str:
        """Return a name for the shard that is unique in its run."""
        return shard_key(self.lang, self.number)

    @property
    def tokens(self) -> int:
        """Return T."""
        return int(self.lengths.sum())

    def sequence_of_token(self) -> npt.NDArray[np.int64]:
        """Return for each token the index of its text, int64 [T]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def positions(self) -> npt.NDArray[np.int32]:
        """Return for each token its position in its text, int32 [T]."""
        return self._places() if self.token_positions is None else self.token_positions

    def _places(self) -> npt.NDArray[np.int32]:
        """Return for each token how many of its text stand before it, int32 [T]."""
        starts = np.cumsum(self.lengths) - self.lengths
        return (np.arange(self.tokens) - np.repeat(starts, self.lengths)).astype(np.int32)

    def generated_tokens(self) -> npt.NDArray[np.bool_]:
        """Return for each token whether the model generated it, bool [T]."""
        if self.generated is None:
            return np.zeros(self.tokens, dtype=bool)
        return self._places() >= np.repeat(self.lengths - self.generated, self.lengths)


def token_order(
    token_ids: npt.NDArray[np.int32] | None, experts: npt.NDArray[np.unsignedinteger], num_experts: int
) -> npt.NDArray[np.intp]:
    """Return the order in which tokens are numbered: by token id, then by the experts of the first layer.

    token_ids: [T], None: by the experts alone; experts: [k, T], in rank order. Equal tokens stand together, so the ids
    of shallow layers, which follow the token closely, compress. One sort of 64-bit numbers: token id, as many ranks as
    there is room for, and the token's index, which makes the order the same on every machine.
    """
    key = np.zeros(experts.shape[1], dtype=np.uint64) if token_ids is None else token_ids.astype(np.uint64)
    index_bits = max(0, len(key) - 1).bit_length()
    id_bits = max(1, (num_experts - 1).bit_length())
    room = 64 - index_bits - int(key.max(initial=0)).bit_length()
    for ranked in experts[: room // id_bits]:
        key = key << np.uint64(id_bits) | ranked
    key = key << np.uint64(index_bits) | np.arange(len(key), dtype=np.uint64)
    key.sort()
    return (key & np.uint64((1 << index_bits) - 1)).astype(np.intp)


def check_shard(shard: Shard, record: RunRecord) -> None:
    """Raise CaptureError, naming language, shard and layer, where the arrays cannot be a trace of this run."""
    where = f"{shard.lang} shard {shard.number}"
    layers, experts, top_k = record.moe_layers, record.num_experts, record.top_k
    texts, total = len(shard.lengths), int(shard.lengths.sum())
    shapes = {
        "experts": (shard.experts.shape, (len(layers), top_k, total)),
        "weights": (shard.weights.shape, (len(layers), top_k, total)),
        "seqs": (shard.seqs.shape, (texts,)),
        "text_ids": ((len(shard.text_ids),), (texts,)),
        "truncated": (shard.truncated.shape, (texts,)),
    }
    if shard.texts is not None:
        shapes["texts"] = ((len(shard.texts),), (texts,))
    known = {
        "token_ids": (shard.token_ids, (total,)),
        "generated": (shard.generated, (texts,)),
        "token_positions": (shard.token_positions, (total,)),
        "profiles": (shard.profiles, (len(layers), texts, experts)),
    }
    shapes |= {name: (values.shape, expected) for name, (values, expected) in known.items() if values is not None}
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise CaptureError(f"{where}: {name} has shape {found}, the plan says {expected}")
    if int(shard.lengths.min(initial=1)) < 1 or not (total or shard.set_aside):
        raise CaptureError(f"{where}: a text without tokens cannot be traced")
    if shard.token_positions is not None and not _ascend(shard.token_positions, shard.lengths):
        raise CaptureError(f"{where}: the positions of a text do not ascend from 0 on")
    for index, layer in enumerate(layers):
        check_layer(shard.experts[index], shard.weights[index], record, f"{where}, layer {layer}")
    if shard.profiles is not None and texts:
        sums = shard.profiles.sum(axis=2)
        if not np.all(np.isfinite(sums)) or float(shard.profiles.min()) < 0 or np.abs(sums - 1).max() > 1e-3:
            raise CaptureError(
                f"{where}: a profile is not a probability distribution (sums {sums.min()} to {sums.max()})"
            )


def _ascend(positions: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32]) -> bool:
    """Tell whether the positions [T] of each text, of so many tokens, ascend, the first at 0 or above."""
    step = np.diff(positions, prepend=-1)
    firsts = (np.cumsum(lengths) - lengths)[lengths > 0]
    step[firsts] = positions[firsts] + 1
    return bool(np.all(step > 0))


def check_layer(
    experts: npt.NDArray[np.unsignedinteger],
    weights: npt.NDArray[np.float32],
    record: RunRecord,
    where: str,
) -> None:
    """Raise CaptureError, beginning with `where`, where arrays [k, T] cannot be the experts and weights of a layer."""
    if not experts.size:
        return
    scale = float(record.routing["scale"])
    ids, gates = np.ascontiguousarray(experts), np.ascontiguousarray(weights)  # a view in another order is slow
    if int(ids.max()) >= record.num_experts:
        raise CaptureError(f"{where}: expert id {int(ids.max())}, but the layer has {record.num_experts} experts")
    if any((one == other).any() for one, other in combinations(ids, 2)):
        raise CaptureError(f"{where}: the same expert twice in one token; the capture did not see this layer")
    if not 0 <= float(gates.min()) <= float(gates.max()) < np.inf:  # a NaN compares as false
        raise CaptureError(f"{where}: a gate weight is NaN, infinite or negative")
    sums = gates.sum(axis=0)
    least, most = float(sums.min()), float(sums.max())
    if most <= 0:
        raise CaptureError(f"{where}: every gate weight is zero; the capture did not see this layer")
    if record.routing["normalized"] and max(most - scale, scale - least) > SUM_TOLERANCE * scale:
        raise CaptureError(
            f"{where}: gate weights of a token sum to {least:.4f} to {most:.4f}, the run record says {scale:g}"
        )
