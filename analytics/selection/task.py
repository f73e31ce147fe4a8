"""Task experts: middle-layer experts that the texts of a task use more than general texts do (2510.04694)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import check_runs, languages_of
from moetrace.analytics.selection.checks import check_finite
from moetrace.analytics.selection.load import with_counts
from moetrace.analytics.selection.ranking import ranking_key
from moetrace.analytics.selection.run_facts import model_of, require_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert
from moetrace.store.mask import in_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

ZONES = {"fixed": "zones", "auto": "zones_auto()"}  # to what has run, layer and zone
DECIMALS = 12  # a score is a difference of sums: what is smaller is the order of summing


def task(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str] = (),
    *,
    against: str,
    tau: float = 0.0,
    per_layer: int | None = None,
    zones: str = "fixed",
) -> Selection:
    """Select the experts of the middle zone that the texts of `run` use more than those of `against` by above `tau`.

    score = mean over the texts of `run` of count / tokens, minus the same over the texts of `against` (2510.04694,
    eq. 3); the default of tau is ours. With a target only that language of both runs is looked at. Experts outside the
    middle zone are no task experts.

    - per_layer: at most so many of each layer, the highest; a model cannot be made to choose more than its top-k
    - zones: `fixed`, the middle of RISE's zones; `auto`, that of `zones_auto` of the run `against`, which must be of
      several languages then

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for several targets, for runs
    that differ in MoE layers, experts or top-k, for runs without texts, and where no expert scores above tau.
    """
    chosen_targets = tuple(dict.fromkeys(targets))
    if len(chosen_targets) > 1:
        raise SelectionError(f"task compares two runs in one language or in all, not in {', '.join(chosen_targets)}")
    check_finite(tau=tau)
    if per_layer is not None and per_layer < 1:
        raise SelectionError(f"per layer {per_layer}: pass at least 1 with --per-layer")
    if zones not in ZONES:
        raise SelectionError(f"zones '{zones}': pass one of {', '.join(ZONES)} with --zones")
    traced = languages_of(connection, run, chosen_targets or None)
    check_runs(connection, [against])
    _check_comparable(connection, run, against)
    languages_of(connection, against, chosen_targets or None)
    scores = _scores(connection, run, against, chosen_targets[0] if chosen_targets else None, zones)
    experts, missed = _split(scores, against, tau, per_layer)
    if not experts:
        best = f"the highest score is {missed[0].score:.6g}" if missed else "the model's middle zone has no layers"
        raise SelectionError(
            f"run '{run}': no middle-zone expert scores above tau {tau:g} against run '{against}' ({best})"
            + ("; lower --tau" if missed else "")
        )
    selection = Selection(
        strategy="task",
        run=run,
        targets=chosen_targets,
        languages=tuple(traced),
        tokens=sum(traced.values()),
        parameters={
            "against": against,
            "tau": tau,
            **({} if per_layer is None else {"per_layer": per_layer}),
            **({} if zones == "fixed" else {"zones": zones}),
        },
        experts=by_layer_and_expert(experts),
        zones={},
        missed=tuple(missed),
    )
    return with_counts(connection, selection)


def _split(
    scores: list[tuple[int, int, float]], against: str, tau: float, per_layer: int | None
) -> tuple[list[SelectedExpert], list[SelectedExpert]]:
    """Return the experts above tau, so many of a layer, and of each layer the best of the others, best first."""
    experts: list[SelectedExpert] = []
    nearest: dict[int, SelectedExpert] = {}
    taken: Counter[int] = Counter()
    for layer, expert, score in sorted(scores, key=lambda row: ranking_key(row[2], row[0], row[1])):
        above = score > tau and (per_layer is None or taken[layer] < per_layer)
        taken[layer] += above
        reason = f"middle: {'above' if score > tau else 'not above'} tau {tau:g} against {against}"
        if score > tau and not above:
            reason += f", and not of its layer's first {per_layer}"
        found = SelectedExpert(layer, expert, "task", "middle", score, reason=reason)
        if above:
            experts.append(found)
        else:
            nearest.setdefault(layer, found)
    return experts, list(nearest.values())


def _check_comparable(connection: duckdb.DuckDBPyConnection, run: str, against: str) -> None:
    model, other = model_of(connection, run), model_of(connection, against)
    differences = [
        f"{name} {mine} and {theirs}"
        for name, mine, theirs in (
            ("MoE layers", in_spans(model.moe_layers), in_spans(other.moe_layers)),
            ("experts in a layer", model.num_experts, other.num_experts),
            ("top-k", model.top_k, other.top_k),
        )
        if mine != theirs
    ]
    if differences:
        raise SelectionError(f"runs '{run}' and '{against}' are of other models: {'; '.join(differences)}")
    if run == against:
        raise SelectionError(f"run '{run}' cannot be compared with itself; name another with --against")


def _scores(
    connection: duckdb.DuckDBPyConnection, run: str, against: str, lang: str | None, zones: str
) -> list[tuple[int, int, float]]:
    """Return layer, expert and score of every expert of the middle zone."""
    with translate_duckdb_errors():
        rows = connection.execute(
            f"""
            select lead.layer, lead.expert, zones.zone, lead.score
            from task_experts(run_a := $run, run_b := $against, lang := $lang) as lead
            inner join {ZONES[zones]} as zones on zones.run = $against and lead.layer = zones.layer
            """,
            {"run": run, "against": against, "lang": lang},
        ).fetchall()
    if not rows and zones == "auto":
        raise SelectionError(f"run '{against}': is of one language, and zones auto are where languages differ")
    if any(score is None for *_, score in require_usage(rows, run)):
        raise SelectionError(
            f"runs '{run}' and '{against}': one was imported without texts, and task experts are means over texts"
        )
    return [(layer, expert, round(score, DECIMALS)) for layer, expert, zone, score in rows if zone == "middle"]
