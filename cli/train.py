"""`moetrace train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moetrace.cli.options import FiniteRange
from moetrace.cli.terminal import printable, say

if TYPE_CHECKING:
    from moetrace.tracer.training.training import TrainingResult


@click.command(short_help="Train the experts of a mask, and nothing else.")
@click.argument("mask", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", required=True, metavar="MODEL", help="A local folder, a hub id, or `bundled`.")
@click.option("--revision", metavar="R", help="Revision of the model on its hub.")
@click.option(
    "--corpus", required=True, metavar="SPEC", help="Folder with a file per language, a table, or hf:<dataset>."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the trained experts, the losses and the checkpoints.",
)
@click.option(
    "--lang", "languages", multiple=True, metavar="L", help="Language to train on; repeat.  [default: mask's target]"
)
@click.option(
    "--eval-lang",
    "eval_languages",
    multiple=True,
    metavar="L",
    help="Language to measure; may be repeated.  [default: all of the corpus]",
)
@click.option("--eval-corpus", metavar="SPEC", help="Measure on these texts.  [default: a share of --corpus]")
@click.option(
    "--eval-share",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the text ids that is held out to measure on, in every language.",
)
@click.option("--eval-texts", type=click.IntRange(min=1), metavar="N", help="Measure on at most N texts a language.")
@click.option("--text-template", metavar="T", help="Columns that make a text, as in '{flores_passage} {question}'.")
@click.option("--id-template", metavar="T", help="Columns that make a text's id, as in '{link}#{question_number}'.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Train on the first N texts of each language.")
@click.option("--epochs", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--max-steps", type=click.IntRange(min=1), metavar="N", help="Steps of the optimizer, whatever --epochs.")
@click.option("--learning-rate", type=FiniteRange(min=0, min_open=True), default=1e-4, show_default=True, metavar="F")
@click.option("--weight-decay", type=FiniteRange(min=0), default=0.0, show_default=True, help="Of AdamW.")
@click.option(
    "--warmup", type=FiniteRange(0, 1, max_open=True), default=0.05, show_default=True, help="Share of the steps."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Blocks of a batch.")
@click.option(
    "--accumulate", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Batches of a step."
)
@click.option("--length", type=int, default=512, show_default=True, metavar="N", help="Tokens of a block.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the frozen weights; what is trained is kept in float32.",
)
@click.option("--train-router", is_flag=True, help="Also train the routers of the layers with masked experts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of texts and of dropout.")
@click.option("--save-every", type=click.IntRange(min=1), default=200, show_default=True, metavar="STEPS")
@click.option("--resume", is_flag=True, help="Go on with a training that was interrupted.")
@click.option("--merge", "merged", is_flag=True, help="Also write the whole model with what was trained in it.")
def train(
    mask: Path,
    model: str,
    revision: str | None,
    corpus: str,
    output: Path,
    languages: tuple[str, ...],
    eval_languages: tuple[str, ...],
    eval_corpus: str | None,
    eval_share: float,
    eval_texts: int | None,
    text_template: str | None,
    id_template: str | None,
    limit: int | None,
    epochs: float,
    max_steps: int | None,
    learning_rate: float,
    weight_decay: float,
    warmup: float,
    batch_size: int,
    accumulate: int,
    length: int,
    dtype: str,
    train_router: bool,
    seed: int,
    save_every: int,
    resume: bool,
    merged: bool,
) -> None:
    """Train only the experts that MASK names, on its target's texts; everything else stays as it is, to the bit.

    Prints each language's loss on held-out texts before and after, the trained ones first; OUTPUT/results.json keeps
    them, OUTPUT/experts.safetensors what was trained.

    \b
    moetrace train mask.json --model bundled --corpus texts/ -o trained
    moetrace merge trained/experts.safetensors --model bundled -o merged
    """  # noqa: D301  click wants the escape itself
    from moetrace.cli.progress import TrainingBar
    from moetrace.store.mask import read_mask
    from moetrace.tracer.bundled import named_corpus, named_model
    from moetrace.tracer.training.requirements import require_train
    from moetrace.tracer.training.settings import TrainingSettings
    from moetrace.tracer.training.training import train as run_training

    chosen = read_mask(mask)
    require_train()
    path = named_model(model)
    settings = TrainingSettings(
        languages=languages,
        eval_languages=eval_languages,
        eval_corpus=None if eval_corpus is None else named_corpus(eval_corpus),
        eval_share=eval_share,
        eval_texts=eval_texts,
        text_template=text_template,
        id_template=id_template,
        limit=limit,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        batch_size=batch_size,
        accumulate=accumulate,
        length=length,
        dtype=dtype,
        seed=seed,
        train_router=train_router,
        save_every=save_every,
    )
    with TrainingBar() as progress:
        result = run_training(
            path,
            named_corpus(corpus),
            output,
            mask=chosen,
            revision=revision,
            settings=settings,
            resume=resume,
            progress=progress,
        )
        if merged:
            from moetrace.tracer.training.merging import merge
            from moetrace.tracer.training.output_folder import EXPERTS_FILE

            progress.stage("writing the merged model")
            merge(path, output / EXPERTS_FILE, output / "merged", revision=revision)
    click.echo(loss_table(result))
    say(
        f"{printable(output)}: {result.trained_parameters:,} of {result.parameters:,} parameters trained, "
        f"{result.steps} steps, {result.tokens:,} tokens in {result.seconds:.0f} s"
    )


def loss_table(result: TrainingResult) -> str:
    """Return the held-out losses as aligned text: trained languages first, then by how much they changed."""
    rows = sorted(result.losses, key=lambda row: (not row.trained, row.after - row.before, row.lang))
    lines = [f"{'lang':<12}  {'tokens':>8}  {'before':>7}  {'after':>7}  {'change':>7}"]
    lines += [
        f"{printable(row.lang):<12}  {row.tokens:>8,}  {row.before:>7.4f}  {row.after:>7.4f}"
        f"  {row.after - row.before:>+7.4f}" + ("  trained" if row.trained else "")
        for row in rows
    ]
    return "\n".join(lines)
