"""A trace that leaves tokens out, as a person types it: what it writes is the unfiltered trace without those tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.warm import WarmProcess

pytestmark = pytest.mark.engine

TEMPLATE = "{% for message in messages %}{{ eos_token }}{{ message.content }}{{ eos_token }}{% endfor %}"
SKIPPED = 32  # positions; some texts are shorter
KEPT = f"position >= {SKIPPED} and not generated and not list_contains(special_token_ids, token_id)"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    folder = tmp_path_factory.mktemp("filters")
    (folder / "template").write_text(TEMPLATE)
    return (
        "trace", "bundled", "--corpus", "bundled", "--store", folder / "store", "--lang", "eng_Latn",
        "--lang", "swh_Latn", "--limit", 8, "--shard-tokens", 60, "--dtype", "float32", "--weight-precision", "f32",
        "--chat", "--chat-template", folder / "template", "--max-new-tokens", 6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(arguments: tuple[object, ...], warm: WarmProcess) -> Path:
    """A store with the run `whole` and the run `left`, which leaves tokens out."""
    filters = ("--prompt-only", "--skip-positions", SKIPPED, "--skip-special")
    runs = warm.run_all("moetrace.cli.main", [(*arguments, "--run", "whole")])
    runs += warm.run_all("moetrace.cli.main", [(*arguments, "--run", "left", *filters)])
    assert [run.status for run in runs] == [0, 0], runs[-1].stderr
    store = arguments[5]
    aside = sum(verify(store).failed.values())
    assert aside > 0, "no text was short enough"
    tokens = [commit.tokens for commit in Store(store).commits if commit.run == "left"]
    assert 0 in tokens, "something is left of every shard"
    assert f"{sum(tokens):,} tokens in" in runs[1].stderr
    assert f"{aside} texts of which nothing is left were set aside" in runs[1].stderr
    return store


def test_every_table_is_the_unfiltered_one_without_the_tokens_left_out(store: Path) -> None:
    verdict = verify(store)
    assert verdict.problems == []
    assert all(progress.there == progress.planned for progress in verdict.runs)
    db = connect(store)
    db.sql(f"""
        create temp table kept as
        select t.* from tokens t join runs using (run) where run = 'whole' and {KEPT}
    """)
    assert db.sql("select count(*) from tokens where run = 'whole' and generated").fetchall()[0][0] > 0
    for columns, table in (
        ("lang, seq, position, token_id, generated", "tokens"),
        ("lang, seq, position, layer, rank, expert, weight", "routes join tokens using (run, lang, shard, token)"),
    ):
        whole = f"select {columns} from {table} semi join kept using (run, lang, shard, token)"
        left = f"select {columns} from {table} where run = 'left'"
        assert db.sql(f"select count(*) from ({left})").fetchall()[0][0] > 0
        assert db.sql(f"({whole} except {left}) union all ({left} except {whole})").fetchall() == []
    texts = """
        select lang, seq, text_id, count(*) as tokens, 0 as generated, text
        from kept join sequences using (run, lang, shard, seq) group by all
    """
    found = "select lang, seq, text_id, tokens, generated, text from sequences where run = 'left'"
    assert db.sql(f"({texts} except {found}) union all ({found} except {texts})").fetchall() == []
    counts = """
        select lang, layer, expert, count(*) as count from routes semi join kept using (run, lang, shard, token)
        group by all
    """
    found = (
        "select lang, layer, expert, sum(count) as count from usage where run = 'left' group by all having count > 0"
    )
    assert db.sql(f"({counts} except {found}) union all ({found} except {counts})").fetchall() == []


def test_a_run_goes_on_with_its_own_filters_and_is_refused_with_others(
    arguments: tuple[object, ...], store: Path, warm: WarmProcess
) -> None:
    before = sorted(path for path in store.rglob("*") if path.is_file())
    others = [
        ("--prompt-only", "--skip-special", "--skip-positions", SKIPPED),
        ("--skip-special", "--skip-positions", SKIPPED),
        ("--prompt-only", "--skip-special", "--skip-positions", SKIPPED - 1),
    ]
    same, *refused = warm.run_all("moetrace.cli.main", [(*arguments, "--run", "left", *other) for other in others])
    assert same.status == 0, same.stderr
    assert "0 shards, 0 tokens in" in same.stderr
    assert [run.status for run in refused] == [1, 1]
    assert "settings.prompt_only: True in the store, None now" in refused[0].stderr
    assert f"settings.skip_positions: {SKIPPED} in the store, {SKIPPED - 1} now" in refused[1].stderr
    assert sorted(path for path in store.rglob("*") if path.is_file()) == before
