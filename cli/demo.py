"""`moetrace demo`: the whole pipeline on what is bundled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moetrace.cli.set_aside import exit_code

if TYPE_CHECKING:
    import duckdb

RUN, TARGET, BUDGET = "demo", "swh_Latn", 24


@click.command(short_help="The whole pipeline on the bundled model and corpus, no network.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="moetrace-demo",
    show_default=True,
    help="Folder for the store, the report and the mask.",
)
@click.option(
    "--stages",
    is_flag=True,
    help="Keep the same texts' trace of an early checkpoint of the model beside, as run `early`, to compare with.",
)
def demo(output: Path, stages: bool) -> int:
    """Trace the bundled corpus through the bundled model, draw the report and export a mask for Swahili.

    \b
    moetrace demo
    moetrace demo -o somewhere-else
    moetrace demo --stages -o stages
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.database.connection import connect
    from moetrace.analytics.masks.mask import build_mask
    from moetrace.analytics.report import write_report
    from moetrace.analytics.selection import rise
    from moetrace.cli.progress import TraceBar
    from moetrace.store.mask import mask_text
    from moetrace.store.output import write_text
    from moetrace.store.read.reader import Store
    from moetrace.tracer.bundled import CORPUS, MODEL
    from moetrace.tracer.bundled.early import begin_with_early
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.runs.settings import TraceSettings
    from moetrace.tracer.runs.trace import trace

    store, mask, report = output / "store", output / "mask.json", output / "report.html"
    if stages:
        begin_with_early(store)
    settings = TraceSettings(engine=EngineSettings(dtype="float32"))
    with TraceBar() as progress:
        result = trace(str(MODEL), str(CORPUS), store, run=RUN, settings=settings, progress=progress)
        progress.stage("computing the metrics, drawing the report")
        opened = Store(store)
        record = opened.run(RUN)
        connection = connect(opened)
        selection = rise(connection, RUN, [TARGET], budget=BUDGET)
        write_text(mask, mask_text(build_mask(selection, record, opened.traced_at(RUN))))
        write_report(store, report, run=RUN, mask=mask)
    layers, experts = len(record.moe_layers), record.num_experts
    click.echo(
        f"\nTraced {result.plan.tokens:,} tokens of {len(result.plan.languages)} languages through {layers} layers x "
        f"{experts} experts, top-{record.top_k}: {result.plan.tokens * layers * record.top_k:,} routing decisions.\n"
    )
    _show_isolation(connection, stages=stages)
    compare = f'  moetrace sql {store} "select * from stage_comparison"\n' if stages else ""
    which = f" --run {RUN}" if stages else ""
    click.echo(
        f"\n  {report}   the pictures: open it in a browser\n"
        f"  {mask}     the {BUDGET} of {layers * experts} experts to train for Swahili ({TARGET})\n"
        f"  {store}         every decision, as Parquet\n\n"
        f"Try next:\n{compare}"
        f'  moetrace sql {store} "select * from pivot_similarity order by similarity limit 5"\n'
        f"  moetrace export rise {store}{which} --target gle_Latn --budget {BUDGET}\n"
        f"  moetrace trace bundled --corpus FOLDER-WITH-YOUR-TEXTS --store my-store"
    )
    return exit_code(result, str(store))


def _show_isolation(connection: duckdb.DuckDBPyConnection, *, stages: bool) -> None:
    from moetrace.analytics.metrics import jaccard_by_layer
    from moetrace.tracer.bundled import EARLY_RUN

    rows = jaccard_by_layer(connection).sort("layer").to_dicts()
    early = {row["layer"]: row["isolation"] for row in rows if row["run"] == EARLY_RUN}
    click.echo("Isolation of languages by layer (0: all use the same experts, 1: none in common)")
    if stages:
        click.echo(f"  with that of the run `{EARLY_RUN}`, early in the model's training")
    for row in rows:
        if row["run"] == RUN:
            layer, isolation = row["layer"], row["isolation"]
            was = f"  {early[layer]:.2f}" if stages else ""
            click.echo(f"  layer {layer}  {'█' * round(40 * isolation):<40}  {isolation:.2f}{was}")
