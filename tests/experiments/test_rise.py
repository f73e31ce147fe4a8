"""The experiment's own arithmetic, on curves whose answers are known, and one small training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.experiments.rise.arms import DESCRIBED
from tests.experiments.rise.curves import Curve, area_between, curve, holm, paired
from tests.experiments.rise.tables import choose_rates, comparison_table, outcome_table, sweep_table, tables
from tests.experiments.rise.trainings import Job, batches, keep, kept, lora_rank, padded, run_job, train
from tests.support.experiment import made_up
from tests.support.paths import ROOT


def line(slope: float, reach: float) -> Curve:
    """A training that gains `slope` nats for a nat of damage."""
    damage = np.asarray([0.0, reach / 3, reach])
    return Curve(damage, slope * damage)


def test_a_curve_is_the_fall_of_one_loss_against_the_rise_of_others() -> None:
    found = curve([[3.0, 1.0, 2.0], [2.5, 1.1, 2.3]], ["a", "b", "c"], "a", ["b", "c"])
    assert found.damage == pytest.approx([0.0, 0.2])
    assert found.gain == pytest.approx([0.0, 0.5])


def test_gain_at_a_damage_is_the_most_that_was_gained_before_it() -> None:
    #                first helps the others, then hurts them, then less again; the target's gain falls at last
    found = Curve(np.asarray([0.0, -0.1, 0.2, 0.4, 0.3]), np.asarray([0.0, 0.3, 0.5, 0.7, 0.6]))
    assert found.gain_at(0.0) == pytest.approx(0.3)
    assert found.gain_at(0.1) == pytest.approx(0.4)
    assert found.gain_at(0.3) == pytest.approx(0.6)
    assert found.gain_at(0.4) == pytest.approx(0.7)
    assert np.isnan(found.gain_at(0.41))
    assert found.gain_within(5.0) == pytest.approx(0.7)


def test_the_area_between_two_lines_is_half_their_distance_where_both_reach() -> None:
    assert area_between(line(3.0, 1.0), line(1.0, 0.5)) == pytest.approx((3.0 - 1.0) * 0.5 / 2)
    assert area_between(line(1.0, 0.5), line(3.0, 1.0)) == pytest.approx(-0.5)
    assert np.isnan(area_between(line(1.0, 1.0), Curve(np.zeros(2), np.asarray([0.0, 1.0]))))


def test_the_sign_flip_test_counts_sign_patterns() -> None:
    found = paired([1.0, 2.0, 3.0])
    assert found.flip_p == pytest.approx(2 / 8)  # all plus, all minus
    assert found.mean == pytest.approx(2.0)
    assert found.interval[0] == pytest.approx(2.0 - 4.302653 / np.sqrt(3), abs=1e-5)
    assert paired([1.0, -1.0]).flip_p == 1.0
    with pytest.raises(ValueError, match="1 pairs"):
        paired([1.0])


def test_holm_is_his_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_tables_say_what_the_results_do() -> None:
    results = made_up()
    assert choose_rates(results) == {"t": {"rise": 1e-2}}
    lines = tables(results).splitlines()
    assert "| t | rise | 0.500 (0.50 / 0.20) | **0.800** (0.80 / 0.20) |" in lines
    rise, *_ = [row for row in lines if row.startswith("| t | rise | 0.01 |")]
    assert "| 10 | 0.25 | 0.275 ± 0.035 | 0.550 ± 0.071 | 1.100 ± 0.141 | 1.100 ± 0.141 * |" in rise
    # Mean over the damage up to .2 of lines to 1.0 and 1.2, less that of lines to .4 and .6.
    mean = f"{np.mean([1.0 - 0.5, 1.2 - 0.5]) / 2:+.3f}"
    assert any(row.startswith(f"| random | {DESCRIBED['random']} | {mean} | 2 | {mean} |") for row in lines)
    assert any(row.startswith("| full 0.0001 | everything | +0.000 | 2 | +0.000 |") for row in lines)


def test_the_docs_have_the_tables_of_the_results_that_are_kept() -> None:
    results = json.loads((ROOT / "docs" / "findings" / "rise.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    for table in (
        sweep_table(results),
        outcome_table(results),
        comparison_table(results, similar=False),
        comparison_table(results, similar=True),
    ):
        assert table in page


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job without a mask for a tiny model and texts that are there."""
    from moetrace.tracer.bundled import MODEL

    for part in ("adapt", "held-out"):
        (tmp_path / part).mkdir()
        for lang in ("deu_Latn", "gle_Latn"):
            rows = [{"id": str(n), "text": f"{lang} {n} Dia duit, conas atá tú inniu?"} for n in range(4)]
            (tmp_path / part / f"{lang}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Job(
        model=str(MODEL), model_sha256="0", texts=str(tmp_path), texts_sha256="1", part="held-out",
        target="gle_Latn", languages=("deu_Latn", "gle_Latn"), method="lora", draw=0, experts=None, mask=None,
        rank=2, rate=1e-2, seed=0, epochs=2, others_texts=2, target_texts=4,
    )  # fmt: skip


def test_a_training_is_kept_under_what_determines_it(tmp_path: Path, job: Job) -> None:
    outcome = {"key": job.key, "curve": []}
    assert kept(job, tmp_path) is None
    keep(job, tmp_path, outcome)
    assert kept(job, tmp_path) == outcome
    job.file(tmp_path).write_text(json.dumps(outcome)[:-3])
    assert kept(job, tmp_path) is None  # half a file is none
    changed: dict[str, Any] = {
        "model_sha256": "2", "texts_sha256": "2", "part": "development", "target": "deu_Latn", "method": "gap",
        "draw": 1, "experts": ((0, 1),), "rank": 3, "rate": 1e-3, "seed": 1, "epochs": 1, "others_texts": 1,
        "languages": ("gle_Latn",), "target_texts": 1,
    }  # fmt: skip
    keys = {replace(job, **{name: value}).key for name, value in changed.items()}
    assert len(keys | {job.key}) == len(changed) + 1
    assert replace(job, model="elsewhere", texts="elsewhere", mask="elsewhere").key == job.key


def test_a_training_starts_from_the_model_and_moves_only_the_adapter(job: Job) -> None:
    found = train(job)
    assert found["key"] == job.key
    assert found["curve"][0]["step"] == 0
    first, last = found["curve"][0]["losses"], found["curve"][-1]["losses"]
    assert last[1] < first[1]
    assert train(replace(job, seed=5))["curve"][0]["losses"] == first
    query, keys, hidden = 4 * 32, 2 * 32, 128
    assert found["parameters"] == 8 * 2 * (2 * (hidden + query) + 2 * (hidden + keys))


def test_the_first_point_is_the_loss_of_the_model_text_by_text(job: Job) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32),
        AutoTokenizer.from_pretrained(job.model),
    )
    expected = []
    for lang, most in (("deu_Latn", job.others_texts), ("gle_Latn", job.target_texts)):
        lines = (Path(job.texts) / "held-out" / f"{lang}.jsonl").read_text().splitlines()[:most]
        nats, tokens = 0.0, 0
        for line in lines:
            ids = torch.tensor([tokenizer(json.loads(line)["text"])["input_ids"]])
            with torch.no_grad():
                nats += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
        expected.append(nats / tokens)
    assert train(job)["curve"][0]["losses"] == pytest.approx(expected, abs=1e-3)


def test_a_finished_training_is_not_done_again(tmp_path: Path, job: Job) -> None:
    run_job(job, tmp_path)
    outcome = kept(job, tmp_path)
    assert outcome is not None
    written = job.file(tmp_path).stat().st_mtime_ns
    run_job(job, tmp_path)
    assert job.file(tmp_path).stat().st_mtime_ns == written
    assert [file.name for file in tmp_path.glob("*.json")] == [job.file(tmp_path).name]


def test_the_rank_has_the_nearest_number_of_parameters() -> None:
    class Config:
        num_attention_heads, num_key_value_heads, head_dim, hidden_size, num_hidden_layers = 4, 2, 32, 128, 8

    each = 8 * (2 * (128 + 128) + 2 * (128 + 64))
    assert [lora_rank(Config, each * rank + each // 3) for rank in (1, 27)] == [1, 27]


def test_methods_of_one_seed_read_the_same_batches_and_padding_is_not_predicted() -> None:
    blocks = [[n] for n in range(40)]
    assert batches(blocks, 2, 7) == batches(blocks, 2, 7) != batches(blocks, 2, 8)
    assert sorted(n for batch in batches(blocks, 2, 7) for [n] in batch) == sorted([*range(40), *range(40)])
    ids, labels = padded([[1, 2, 3], [4]])
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert labels.tolist() == [[1, 2, 3], [4, -100, -100]]
