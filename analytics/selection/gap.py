"""Activation gap: experts of the final layers that one language uses more than any other (2605.29714)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.selection.checks import check_count, check_finite, compared_languages
from moetrace.analytics.selection.ranking import ranking_key, rounded_score
from moetrace.analytics.selection.run_facts import model_of, require_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    Gap = tuple[int, int, str | None, float]  # layer, expert, whose it is, by how much


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
) -> Selection:
    """Select the targets' own experts of the final MoE layers, and of each layer shared ones too (2605.29714).

    An expert's gap is its largest minus its second largest activation share p = count / (T k) over the compared
    languages, and it belongs to the language with the largest. Of each of the last `layers` MoE layers those of a
    target with a gap of at least `alpha` are taken, and then the `shared` (the run's top_k where None) others with the
    highest mean p over the compared languages. With a `parent`, the targets borrow the set of that language instead of
    their own. The targets, the parent and the `reference` languages are compared, all languages of the run where no
    reference is named. Ties go to the lower expert.

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for fewer than two
    languages, for more layers or shared experts than there are, and where no expert belongs to a target by `alpha`.
    """
    chosen_targets = tuple(dict.fromkeys(targets))
    if not chosen_targets:
        raise SelectionError("gap selects experts for a language; name it with --target")
    owners = chosen_targets if parent is None else (parent,)
    traced = compared_languages(connection, run, "gap", list(dict.fromkeys([*chosen_targets, *owners])), reference)
    check_finite(alpha=alpha)
    model = model_of(connection, run)
    shared = model.top_k if shared is None else shared
    check_count("layers", layers, len(model.moe_layers), f"run '{run}' has {len(model.moe_layers)} MoE layers")
    check_count("shared", shared, model.num_experts, f"a layer of run '{run}' has {model.num_experts} experts", least=0)
    last = model.moe_layers[-layers:]
    gaps, shares = _gaps(connection, run, tuple(traced), last), _mean_shares(connection, run, tuple(traced), last)
    own = [item for item in gaps if item[2] in owners]
    chosen = {(layer, expert) for layer, expert, _, lead in own if rounded_score(lead) >= alpha}
    if not chosen:
        largest = f"the largest gap of theirs is {max(item[3] for item in own):.6g}" if own else "none has a gap"
        raise SelectionError(
            f"run '{run}': no expert of the last {layers} MoE layers belongs to {' or '.join(owners)} by a gap of "
            f"{alpha:g} ({largest}); lower --alpha or look at more --layers"
        )
    experts: list[SelectedExpert] = []
    missed: list[SelectedExpert] = []
    for layer in last:
        specific, below = _own_of_layer([item for item in own if item[0] == layer], alpha)
        added, next_one = _shared_of_layer(layer, shares, chosen, shared)
        experts += specific + added
        missed += below + next_one
    return Selection(
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
            "reference": sorted(set(reference)),
        },
        experts=by_layer_and_expert(experts),
        zones={},
        missed=tuple(missed),
    )


def _own_of_layer(own: list[Gap], alpha: float) -> tuple[list[SelectedExpert], list[SelectedExpert]]:
    """Return the experts of one layer whose gap is at least alpha, and the one nearest below."""
    experts: list[SelectedExpert] = []
    for layer, expert, lang, lead in sorted(own, key=lambda item: ranking_key(item[3], item[0], item[1])):
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
            select layer, expert, lang, gap
            from activation_gap(languages := $languages, layers := $layers)
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
