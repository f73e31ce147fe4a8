"""Doing what a verdict's repairs say: files move to `quarantine/`, records that are proven are written again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError, as_store_errors
from moetrace.store.storage.claims import LivingClaims
from moetrace.store.verify.verdict import first_line
from moetrace.store.write.quarantine import move_to_quarantine

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage
    from moetrace.store.verify.verdict import Repair, Verdict


def carry_out(storage: Storage, verdict: Verdict) -> None:
    """Do the repairs of a verdict, and note in it what was done and what was left alone.

    Nothing is deleted: what is bad moves to `quarantine/`. What could not be read for a reason that may pass has no
    repair; what has changed since it was looked at, or has a living claim, is somebody's at work and left alone.

    Raises StoreError where the store cannot be written; nothing is lost then.
    """
    claims = LivingClaims(storage)
    doable = []
    for repair in verdict.repairs:
        if why := _hindrance(storage, claims, repair, verdict):
            verdict.left.append(f"{repair.says}: not now, {why}")
        else:
            doable.append(repair)
    moves = {path: reason for repair in doable for path, reason in repair.moves.items()}
    if moves:
        verdict.quarantine = move_to_quarantine(storage, moves)
    with as_store_errors(storage, "written", "; what was moved is in quarantine/"):
        for repair in doable:
            for path, content in repair.writes.items():
                storage.replace(path, content)
    verdict.done += [repair.says for repair in doable]


def _hindrance(storage: Storage, claims: LivingClaims, repair: Repair, verdict: Verdict) -> str:
    if repair.claim is not None and (claim := claims.at(repair.claim)) is not None:
        return f"{claim.who or 'another process'} is at work on it"
    for path in (*repair.moves, *repair.writes):
        try:
            now, then = storage.stat(path), verdict.seen.get(path)
        except StoreError as error:  # a link, or what is no file, stands there or on the way
            return first_line(error)
        if now is not None and then is not None and (now.bytes, now.stamp) != (then.bytes, then.stamp):
            return f"{path} has changed since it was looked at"
    return ""
