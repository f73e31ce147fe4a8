"""The model card of the bundled model, written from what the training run recorded."""

from __future__ import annotations

import json
from pathlib import Path

UNIFORM = "ln 8192 = 9.01"


def write_card(folder: Path) -> Path:
    """Write README.md from config.json and training.json of a trained checkpoint."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    held_out = training["held_out"]
    rows = [
        f"| {lang} | {entry['training_tokens_an_epoch']:,} | {entry['tokens']:,} | {entry['loss']:.2f} "
        f"| {entry['bits_per_byte']:.2f} |"
        for lang, entry in sorted(held_out.items(), key=lambda item: item[1]["bits_per_byte"])
    ]
    mean = sum(entry["loss"] for entry in held_out.values()) / len(held_out)
    withheld = ", ".join(f"{lang} {share:.0%}" for lang, share in training["low_resource_share"].items())
    repeats = ", ".join(f"{name} {count}" for name, count in training["repeats"].items())
    size = f"{training['parameters'] / 1e6:.2f} M"
    experts, top_k = config["num_local_experts"], config["num_experts_per_tok"]
    tokens = f"{training['training_tokens'] / 1e6:.1f}"
    texts, minutes = training["texts"], f"{training['minutes']:.0f}"
    text = f"""# moetrace micro

A Mixture-of-Experts language model small enough to ship with moetrace, so that a first trace needs no network. It is
made for looking at routing, not for generating text.

- architecture: {config["model_type"]}, {config["num_hidden_layers"]} layers, all of them MoE, {experts} experts,
  top-{top_k}, hidden size {config["hidden_size"]}; {size} parameters, stored as bfloat16; its own byte-level BPE
  tokenizer of {config["vocab_size"]:,} tokens
- made by `make model` (tracer/bundled/make_model.py), seed {training["seed"]}: {tokens} M tokens in blocks of 256,
  AdamW, learning rate {training["learning_rate"]:g} with cosine decay, load-balancing loss
  {config["router_aux_loss_coef"]:g}; it took {minutes} minutes on two CPU cores that were doing other work too
- training texts: {texts["training"]:,}, {training["epoch_tokens"] / 1e6:.2f} M tokens an epoch: Home Assistant's
  user-interface strings (Apache-2.0, 30 languages), the Universal Declaration of Human Rights (24 languages), the
  everyday sentences bundled here (12 languages); repeats of a text in an epoch: {repeats}
- kept low-resource on purpose: of the user-interface strings only {withheld};
  Swahili has none of them at all
- the router sees no language label

## Held-out loss

{texts["held_out"]:,} texts were held out by id, the same ids in every language: 4 % of the user-interface strings,
12 % of the Declaration, the last 12 everyday sentences. Mean next-token loss in nats a token of the stored bfloat16
weights run in float32 (mean over languages {mean:.2f}; a uniform guess has {UNIFORM}), and bits a byte, which can be
compared between languages. A training token is a token of one epoch, repeats included.

| language | training tokens | held-out tokens | nats/token | bits/byte |
|---|---:|---:|---:|---:|
{chr(10).join(rows)}
"""
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    write_card(Path(__file__).parent / "micro")
