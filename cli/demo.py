"""`moetrace demo`: the whole pipeline on what is bundled."""

from __future__ import annotations

from pathlib import Path

import click

TARGET, BUDGET = "swh_Latn", 24


@click.command(short_help="The whole pipeline on the bundled model and corpus, no network.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="moetrace-demo",
    show_default=True,
    help="Folder for the store, the report and the mask.",
)
def demo(output: Path) -> None:
    """Trace the bundled corpus through the bundled model, draw the report and export a mask for Swahili.

    \b
    moetrace demo
    moetrace demo -o somewhere-else
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.database.connection import connect
    from moetrace.analytics.masks.mask import build_mask
    from moetrace.analytics.metrics import jaccard_by_layer
    from moetrace.analytics.report import write_report
    from moetrace.analytics.selection import rise
    from moetrace.cli.progress import TraceBar
    from moetrace.store.mask import mask_text
    from moetrace.store.output import write_text
    from moetrace.store.read.reader import Store
    from moetrace.tracer.bundled import CORPUS, MODEL
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.runs.settings import TraceSettings
    from moetrace.tracer.runs.trace import trace

    store, mask, report = output / "store", output / "mask.json", output / "report.html"
    settings = TraceSettings(engine=EngineSettings(dtype="float32"))
    with TraceBar() as progress:
        result = trace(str(MODEL), str(CORPUS), store, run="demo", settings=settings, progress=progress)
        progress.stage("computing the metrics, drawing the report")
        opened = Store(store)
        record = opened.run("demo")
        connection = connect(opened)
        selection = rise(connection, "demo", [TARGET], budget=BUDGET)
        write_text(mask, mask_text(build_mask(selection, record, opened.traced_at("demo"))))
        write_report(store, report, run="demo", mask=mask)
    layers, experts = len(record.moe_layers), record.num_experts
    click.echo(
        f"\nTraced {result.plan.tokens:,} tokens of {len(result.plan.languages)} languages through {layers} layers x "
        f"{experts} experts, top-{record.top_k}: {result.plan.tokens * layers * record.top_k:,} routing decisions.\n"
    )
    click.echo("Isolation of languages by layer (0: all use the same experts, 1: none in common)")
    for row in jaccard_by_layer(connection).iter_rows(named=True):
        click.echo(f"  layer {row['layer']}  {'█' * round(40 * row['isolation']):<40}  {row['isolation']:.2f}")
    click.echo(
        f"\n  {report}   the pictures: open it in a browser\n"
        f"  {mask}     the {BUDGET} of {layers * experts} experts to train for Swahili ({TARGET})\n"
        f"  {store}         every decision, as Parquet\n\n"
        "Try next:\n"
        f'  moetrace sql {store} "select * from pivot_similarity order by similarity limit 5"\n'
        f"  moetrace export rise {store} --target gle_Latn --budget {BUDGET}\n"
        f"  moetrace trace bundled --corpus FOLDER-WITH-YOUR-TEXTS --store my-store"
    )
