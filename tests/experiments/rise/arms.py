"""What is compared: the selections, their controls, and what one would train otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.tracer.bundled.command import moetrace

if TYPE_CHECKING:
    from pathlib import Path

RUN = "strings"
TRACED_TEXTS = 400  # a language; the same ids in all
BUDGET = 16  # experts of 256
LAST_LAYERS = (6, 7)
SIMILAR = 5  # languages whose losses are told apart from the others'
# Among all 30 languages hardly an expert leads by gap's 0.01: it compares with some high-resource ones.
GAP_REFERENCE = ("eng_Latn", "deu_Latn", "spa_Latn", "rus_Cyrl", "jpn_Jpan", "zho_Hans")

TARGETS = ("gle_Latn", "mal_Mlym")
THIRD = "gsw_Latn"
OTHER = {"gle_Latn": "mal_Mlym", "mal_Mlym": "gle_Latn", "gsw_Latn": "mal_Mlym"}  # whose mask is tried
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # of which development texts choose
FULL_RATES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # of everything, each of which is compared, too

DESCRIBED = {
    "rise": "RISE's 16 experts",
    "rise+router": "the same, and the routers of their layers",
    "gap": "the activation gap's experts of the last two layers",
    "top-k": "the 16 most used experts",
    "other": "RISE's 16 experts for the other language",
    "last-two": "all 64 experts of the last two layers",
    "random": "as many experts of each layer, drawn",
    "load": "as many of each layer, none of RISE's, of the nearest load",
    "lora": "LoRA on attention, of as many parameters as RISE's",
    "full": "everything",
}


@dataclass(frozen=True)
class Arm:
    """One way to train for a language: the method, which of its masks, and the mask's file where it has one."""

    method: str
    draw: int
    mask: Path | None


def trace(texts: Path, store: Path) -> None:
    """Trace the texts that are adapted to, and those of the other languages."""
    moetrace(
        *("trace", "bundled", "--corpus", texts / "adapt", "--store", store, "--run", RUN),
        *("--dtype", "float32", "--sample", TRACED_TEXTS, "--no-routes"),
    )


def select(store: Path, folder: Path, targets: tuple[str, ...], draws: int) -> dict[str, list[Arm]]:
    """Export every mask, and return the arms of each target."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {target: _export(store, folder, target, draws) for target in targets}
    arms: dict[str, list[Arm]] = {}
    for target in targets:
        masks = {**files[target], ("other", 0): files[OTHER[target]]["rise", 0]}
        masks["rise+router", 0] = masks["rise", 0]
        arms[target] = [Arm(method, draw, file) for (method, draw), file in masks.items()]
        arms[target] += [Arm("lora", 0, None), Arm("full", 0, None)]
    return arms


def _export(store: Path, folder: Path, target: str, draws: int) -> dict[tuple[str, int], Path]:
    files: dict[tuple[str, int], Path] = {}

    def export(method: str, *arguments: object, name: str = "", draw: int = 0) -> Path:
        file = folder / f"{target}-{name or method}-{draw}.json"
        moetrace("export", method, store, "--run", RUN, *arguments, "-o", file)
        files[name or method, draw] = file
        return file

    references = [part for lang in GAP_REFERENCE for part in ("--reference", lang)]
    rise = export("rise", "--target", target, "--budget", BUDGET)
    export("gap", "--target", target, *references)
    export("top-k", "--target", target, "--budget", BUDGET)
    last = f"select layer, expert from activation where lang = '{target}' and layer in {LAST_LAYERS}"
    export("sql", "--query", last, "--target", target, name="last-two")
    for draw in range(draws):
        export("random", "--like", rise, "--seed", draw, draw=draw)
        matched = ("--match", "load", "--exclude", rise)
        export("random", "--like", rise, *matched, "--seed", draw, name="load", draw=draw)
    return files


def similar_languages(store: Path, target: str) -> list[str]:
    """Return the languages that are routed most like the target: least normalised divergence, mean over layers."""
    query = (
        f"select if(lang_a = '{target}', lang_b, lang_a) as lang from divergence "
        f"where '{target}' in (lang_a, lang_b) and run = '{RUN}' "
        f"group by all order by avg(jsd_normalized), lang limit {SIMILAR}"
    )
    return [row["lang"] for row in json.loads(moetrace("sql", store, query, "--format", "json"))]


def decisions(store: Path, target: str) -> dict[tuple[int, int], float]:
    """Return (layer, expert) -> the share of the target's routing decisions, of all layers, that meet the expert."""
    query = (
        f"select layer, expert, count / sum(count) over () as share from usage_by_language "
        f"where run = '{RUN}' and lang = '{target}'"
    )
    rows = json.loads(moetrace("sql", store, query, "--format", "json"))
    return {(row["layer"], row["expert"]): row["share"] for row in rows}


def described(arm: Arm, shares: dict[tuple[int, int], float]) -> dict[str, Any]:
    """Return what the results keep of a mask: its experts as [layer, expert], parameters, and the target's load."""
    if arm.mask is None:
        return {"experts": None, "load": None, "parameters": None}
    mask = json.loads(arm.mask.read_text(encoding="utf-8"))
    experts = [[item["layer"], item["expert"]] for item in mask["experts"]]
    return {
        "experts": experts,
        "load": round(sum(shares.get((layer, expert), 0.0) for layer, expert in experts), 5),
        "parameters": mask["summary"]["parameters"],
    }
