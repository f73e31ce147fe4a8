"""How a mask is trained."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainingSettings:
    """How a mask is trained; the defaults are those of `moetrace train`.

    - languages: trained on, the mask's targets where empty; eval_languages: all of the corpus where empty
    - eval_share: of the text ids, held out in every language; ignored where eval_corpus is given
    - eval_texts: at most that many a language; length: tokens of a block that is trained on, and of a held-out text
    - max_steps: in place of epochs; save_every: steps between checkpoints
    - dtype: of the frozen weights; the trained slices are kept in float32 beside them
    """

    languages: tuple[str, ...] = ()
    eval_languages: tuple[str, ...] = ()
    eval_corpus: str | None = None
    eval_share: float = 0.1
    eval_texts: int | None = None
    text_template: str | None = None
    id_template: str | None = None
    limit: int | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.05
    batch_size: int = 8
    accumulate: int = 1
    length: int = 512
    dtype: str = "auto"
    seed: int = 0
    train_router: bool = False
    save_every: int = 200
