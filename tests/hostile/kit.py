"""All hostile stores, by name."""

from __future__ import annotations

from tests.hostile import contents, damaged, links, names, numbers, paths
from tests.hostile.hostile import HARMLESS, Hostile

UNCHANGED = "unchanged"

HOSTILE: dict[str, Hostile] = {
    UNCHANGED: Hostile(lambda _: None, HARMLESS),
    **{name: store for kit in (names, paths, links, numbers, damaged, contents) for name, store in kit.stores()},
}
