"""The model card of the bundled model, written from what the training and the measuring recorded."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

UNIFORM = "ln 8192 = 9.01"


def write_card(folder: Path) -> Path:
    """Write README.md from config.json and training.json of a trained checkpoint."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    withheld = ", ".join(f"{lang} {share:.0%}" for lang, share in training["low_resource_share"].items())
    repeats = ", ".join(f"{name} {count}" for name, count in training["repeats"].items())
    size = f"{training['parameters'] / 1e6:.2f} M"
    experts, top_k = config["num_local_experts"], config["num_experts_per_tok"]
    tokens = f"{training['training_tokens'] / 1e6:.1f}"
    texts, minutes = training["texts"], f"{training['minutes']:.0f}"
    mean = statistics.mean(entry["loss"] for entry in training["held_out"].values())
    text = f"""# moetrace micro

A Mixture-of-Experts language model small enough to ship with moetrace, so that a first trace needs no network. It is
made for looking at routing, not for generating text.

- architecture: {config["model_type"]}, {config["num_hidden_layers"]} layers, all of them MoE, {experts} experts,
  top-{top_k}, hidden size {config["hidden_size"]}; {size} parameters, stored as bfloat16; its own byte-level BPE
  tokenizer of {config["vocab_size"]:,} tokens
- made by `make model` (tracer/bundled/make_model.py), seed {training["seed"]}: {tokens} M tokens in blocks of 256,
  AdamW, learning rate {training["learning_rate"]:g} with cosine decay, load-balancing loss
  {config["router_aux_loss_coef"]:g}; it took {minutes} minutes on two CPU cores that were doing other work too
- training texts: {texts["training"]:,}: Home Assistant's user-interface strings (Apache-2.0, 30 languages), the
  Universal Declaration of Human Rights (24 languages), the everyday sentences bundled here (12 languages); repeats of a
  text in an epoch: {repeats}
- most documents are pairs, "English text = its translation" in either order, so that the model learns to read across
  languages; a quarter of the texts stand alone beside, a quarter in a pair with a third language. An epoch has
  {training["epoch_tokens"] / 1e6:.2f} M tokens. An English text stands in a pair with every other language; in one of
  them it is predicted, in the others only read: {training["counted_tokens"] / 1e6:.1f} M tokens are predicted in all
- kept low-resource on purpose: of the user-interface strings only {withheld};
  Swahili has none of them at all
- the router sees no language label
- `make model` also keeps a trace of the weights as they were after {training["early"]:.2%} of the steps:
  `moetrace demo --stages` puts it beside today's

{texts["held_out"]:,} texts were held out by id, the same ids in every language, alone and in pairs: 4 % of the
user-interface strings, 12 % of the Declaration, the last 12 everyday sentences. No training text has the words of a
held-out one. All figures are of the stored bfloat16 weights run in float32, and of held-out texts.

## Loss

The mean loss of every token after a text's first, in nats (mean over languages {mean:.2f}; a uniform guess has
{UNIFORM}). A language's training tokens are those that were predicted in the whole training, repeats included.

| language | training texts | training tokens | held-out tokens | nats a token |
|---|---:|---:|---:|---:|
{_lines(_loss_rows(training))}

## Reading after English

What a text costs alone, after its English text, and after the English of another id, of about the same length; nats a
token of the text alone, all of its tokens. `gain` is what the right English saves against reading alone, `meaning` what
it saves against the wrong one; ± one standard error over texts.

| language | texts | alone | after its English | after a wrong one | gain | meaning | bits a byte alone |
|---|---:|---:|---:|---:|---:|---:|---:|
{_lines(_reading_rows(training["reading"]))}

## Routed like its translation

How much more alike a text and its English translation are routed than texts of other ids: `excess` of
`pivot_similarity`, by layer, x 1,000, held-out user-interface strings. The last lines are means over languages, of this
model and of the early checkpoint.

| language |{_header(config["num_hidden_layers"])}
|---|{"---:|" * config["num_hidden_layers"]}
{_lines(_excess_rows(training["excess"]))}
"""
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _lines(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _header(layers: int) -> str:
    return "".join(f" layer {layer} |" for layer in range(layers))


def _loss_rows(training: dict[str, Any]) -> list[list[str]]:
    languages = training["languages"]
    order = sorted(training["held_out"], key=lambda lang: -languages[lang]["training_tokens"])
    return [
        [
            lang,
            f"{languages[lang]['training_texts']:,}",
            f"{languages[lang]['training_tokens']:,}",
            f"{training['held_out'][lang]['tokens']:,}",
            f"{training['held_out'][lang]['loss']:.2f}",
        ]
        for lang in order
    ]


def _reading_rows(reading: dict[str, dict[str, float]]) -> list[list[str]]:
    return [
        [
            lang,
            f"{one['texts']}",
            *(f"{one[name]:.2f}" for name in ("alone", "after_english", "after_wrong_english")),
            *(f"{one[name]:+.2f} ± {one[f'{name}_se']:.2f}" for name in ("gain", "meaning")),
            f"{one['bits_per_byte']:.2f}",
        ]
        for lang, one in sorted(reading.items(), key=lambda item: -item[1]["gain"])
    ]


def _excess_rows(excess: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    rows = [[lang, *(f"{1000 * one:.0f}" for one in values)] for lang, values in sorted(excess["final"].items())]
    for name, label in (("final", "mean"), ("early", "mean, early")):
        means = [statistics.mean(layer) for layer in zip(*excess[name].values(), strict=True)]
        rows.append([label, *(f"{1000 * one:.1f}" for one in means)])
    return rows


if __name__ == "__main__":
    write_card(Path(__file__).parent / "micro")
