"""Records that prove themselves: JSON objects that carry a checksum of all their other members.

The checksum says that a record is as it was written, not by whom.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import StoreError
from moetrace.store.format.strict_json import MOST_BYTES, JsonError, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKSUM = "checksum"


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an object as JSON without spaces, keys sorted, everything but ASCII escaped."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed_text(content: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """Return a record as the text of its file, its checksum last.

    Raises ValueError for a number that JSON does not have: NaN, an infinity.
    """
    whole = {**content, CHECKSUM: digest(content)}
    return json.dumps(whole, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def read_sealed(text: str | bytes, where: str, *, required: bool, most: int = MOST_BYTES) -> dict[str, Any]:
    """Return the members of a record without its checksum.

    `required`: a record without one is refused, as every one of a store since format version 4. Raises StoreError,
    naming `where`, for what is not a JSON object, and for one that is not as it was written.
    """
    try:
        found = parse_json(text, most=most)
    except JsonError as error:
        raise StoreError(f"{where}: the record is damaged ({error})") from error
    if not isinstance(found, dict):
        raise StoreError(f"{where}: the record is damaged (it is no JSON object)")
    said = found.pop(CHECKSUM, None)
    if said is None and required:
        raise StoreError(f"{where}: the record is damaged ({CHECKSUM}: it has none)")
    if said is not None and said != digest(found):
        raise StoreError(f"{where}: the record is damaged ({CHECKSUM}: its content is not what was written)")
    return found
