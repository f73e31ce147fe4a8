"""Activation gap: experts of the final layers that one language uses more than any other (2605.29714)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import languages_of
from moetrace.analytics.selection.checks import check_count, check_finite, compared_languages
from moetrace.analytics.selection.load import with_counts
from moetrace.analytics.selection.min_count import MIN_COUNT, count_rule
from moetrace.analytics.selection.ranking import ranking_key, rounded_score
from moetrace.analytics.selection.run_facts import model_of, require_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    Gap = tuple[int, int, str | None, float, int]  # layer, expert, whose it is, by how much, its routing decisions

SHARED = 5  # as in the authors' code


def gap(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str],
    *,
    reference: Sequence[str] = (),
    layers: int = 2,
    alpha: float = 0.01,
    shared: int | None = None,
    parent: str | None = None,
    min_count: int = MIN_COUNT,
) -> Selection:
    """Select the targets' own experts of the final MoE layers, and of each layer shared ones too (2605.29714).

    An expert's gap is its largest minus its second largest activation share p = count / sum of the layer's counts over
    the compared languages, and it belongs to the language with the largest. Of each of the last `layers` MoE layers
    those of a target with a gap of at least `alpha` are taken, and then the `shared` others with the highest mean p
    over the compared languages: 5 where None, or as many as a layer has. The targets and the `reference` languages are
    compared, all languages of the run where no reference is named. Ties go to the lower expert.

    With a `parent`, the targets borrow the set of that language instead of their own. Compared are then the parent and
    the `reference` languages, all of the run where none is named, and never a target: beside its parent it would take
    away from it just what the two have in common.

    An own expert with fewer than `min_count` routing decisions of the language whose it is, the target or the parent,
    is not taken; shared ones go by their mean and are not held to it.

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for a parent that is a
    target, for fewer than two languages, for more layers or shared experts than there are, and where no expert belongs
    to a target by `alpha`.
    """
    chosen_targets = tuple(dict.fromkeys(targets))
    if not chosen_targets:
        raise SelectionError("gap selects experts for a language; name it with --target")
    if parent in chosen_targets:
        raise SelectionError(f"'{parent}' cannot borrow its own set; name another language with --parent, or none")
    owners, without = (chosen_targets, ()) if parent is None else ((parent,), chosen_targets)
    languages_of(connection, run, chosen_targets)
    traced = compared_languages(connection, run, "gap", owners, reference, without)
    check_finite(alpha=alpha)
    rule = count_rule(connection, run, min_count)
    model = model_of(connection, run)
    shared = min(SHARED, model.num_experts) if shared is None else shared
    check_count("layers", layers, len(model.moe_layers), f"run '{run}' has {len(model.moe_layers)} MoE layers")
    check_count("shared", shared, model.num_experts, f"a layer of run '{run}' has {model.num_experts} experts", least=0)
    last = model.moe_layers[-layers:]
    shares = _mean_shares(connection, run, tuple(traced), last)
    gaps = [item for item in _gaps(connection, run, tuple(traced), last) if item[2] in owners]
    own = [item for item in gaps if item[4] >= rule.least]
    chosen = {(layer, expert) for layer, expert, _, lead, _ in own if rounded_score(lead) >= alpha}
    if not chosen:
        found = f"run '{run}': no expert of the last {layers} MoE layers belongs to {' or '.join(owners)} by a gap of"
        raise SelectionError(f"{found} {alpha:g} {_why_none(gaps, alpha, rule.least)}")
    experts: list[SelectedExpert] = []
    missed: list[SelectedExpert] = []
    for layer in last:
        specific, below = _own_of_layer([item for item in own if item[0] == layer], alpha)
        added, next_one = _shared_of_layer(layer, shares, chosen, shared)
        experts += specific + added
        missed += below + next_one
    selection = Selection(
        strategy="gap",
        run=run,
        targets=chosen_targets,
        languages=tuple(traced),
        tokens=sum(traced.values()),
        parameters={
            "layers": layers,
            "alpha": alpha,
            "shared": shared,
            "parent": parent,
            **rule.parameters,
            "reference": sorted(set(reference)),
        },
        experts=by_layer_and_expert(experts),
        zones={},
        missed=tuple(missed),
        notes=rule.notes,
    )
    return with_counts(connection, selection)


def _why_none(gaps: list[Gap], alpha: float, least: int) -> str:
    """Return why none of the gaps of the owners makes a selection, and what to do."""
    wide = sum(rounded_score(item[3]) >= alpha for item in gaps)
    if wide:
        return (
            f"with at least {least} routing decisions of it ({wide} with fewer); lower --min-count (0: no such rule) "
            "or trace more"
        )
    largest = f"the largest gap of theirs is {max(item[3] for item in gaps):.6g}" if gaps else "none has a gap"
    return f"({largest}); lower --alpha or look at more --layers"


def _own_of_layer(own: list[Gap], alpha: float) -> tuple[list[SelectedExpert], list[SelectedExpert]]:
    """Return the experts of one layer whose gap is at least alpha, and the one nearest below."""
    experts: list[SelectedExpert] = []
    for layer, expert, lang, lead, _ in sorted(own, key=lambda item: ranking_key(item[3], item[0], item[1])):
        if rounded_score(lead) < alpha:
            reason = f"layer {layer}: {lang} leads in p by less than {alpha:g}"
            return experts, [SelectedExpert(layer, expert, "specific", score=lead, reason=reason)]
        reason = f"layer {layer}: {lang} leads in p by {alpha:g} or more"
        experts.append(SelectedExpert(layer, expert, "specific", score=lead, reason=reason))
    return experts, []


def _shared_of_layer(
    layer: int, shares: dict[tuple[int, int], float], chosen: set[tuple[int, int]], number: int
) -> tuple[list[SelectedExpert], list[SelectedExpert]]:
    """Return the `number` experts of one layer with the highest mean p that are not chosen yet, and the next one."""
    rest = [cell for cell in shares if cell[0] == layer and cell not in chosen]
    ranked = sorted(rest, key=lambda cell: ranking_key(shares[cell], *cell))
    taken = min(number, len(ranked))
    found = [
        SelectedExpert(
            *cell,
            "shared",
            score=shares[cell],
            reason=f"layer {layer}: "
            + (f"{place} of {taken}" if place <= taken else f"next after {taken}")
            + " by mean p",
        )
        for place, cell in enumerate(ranked[: taken + 1], start=1)
    ]
    return found[:taken], found[taken:]


def _gaps(
    connection: duckdb.DuckDBPyConnection, run: str, languages: Sequence[str], layers: Sequence[int]
) -> list[Gap]:
    with translate_duckdb_errors():
        rows: list[Gap] = connection.execute(
            """
            select layer, expert, lead.lang, lead.gap, coalesce(used.count, 0)
            from activation_gap(languages := $languages, layers := $layers) as lead
            left join usage_by_language as used using (run, lang, layer, expert)
            where run = $run
            """,
            {"run": run, "languages": list(languages), "layers": list(layers)},
        ).fetchall()
    return require_usage(rows, run)


def _mean_shares(
    connection: duckdb.DuckDBPyConnection, run: str, languages: Sequence[str], layers: Sequence[int]
) -> dict[tuple[int, int], float]:
    with translate_duckdb_errors():
        rows = connection.execute(
            """
            select layer, expert, avg(share)
            from activation
            where run = $run and list_contains($languages, lang) and list_contains($layers, layer)
            group by layer, expert
            """,
            {"run": run, "languages": list(languages), "layers": list(layers)},
        ).fetchall()
    return {(layer, expert): share for layer, expert, share in rows}
