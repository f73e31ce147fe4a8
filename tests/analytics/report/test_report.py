"""The report: one file that loads nothing, says what the views say, and draws in a real browser."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import vl_convert
from jsonschema.exceptions import ValidationError
from polars.testing import assert_frame_equal

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.masks.mask import build_mask
from moetrace.analytics.report import write_report
from moetrace.analytics.report.made import record_facts
from moetrace.analytics.report.ordering import similarity_order
from moetrace.analytics.selection import rise
from moetrace.store.errors import MoetraceError, StoreError, UnknownNameError
from moetrace.store.mask import MaskError, mask_text
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.support.report_page import Page
from tests.support.stores import make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.format.records import RunRecord

CREATED = "2025-01-01T00:00:00+00:00"
SECTIONS = ["isolation", "divergence", "pivot", "pairs", "specificity", "entropy", "vocabulary", "corpus"]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three languages with profiles, and a mask made from it."""
    made = tmp_path_factory.mktemp("report")
    record = make_record()
    opened = connect(write_world(made / "store", make_world(3, record, texts=12)))
    mask = build_mask(rise(opened, "run", ["swh_Latn"], budget=6, min_count=0), record, CREATED)
    (made / "mask.json").write_text(mask_text(mask), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder / "store", folder / "report.html", mask=folder / "mask.json"))


def report_of(tmp_path: Path, record: RunRecord, **options: Any) -> Page:
    write_world(tmp_path / "store", make_world(5, record))
    return Page(write_report(tmp_path / "store", tmp_path / "report.html", **options))


def test_the_page_loads_nothing_from_anywhere(page: Page) -> None:
    assert [address for address in page.loads if not address.startswith(("#", "data:"))] == []
    assert all("@import" not in style and "url(" not in style for style in page.styles)
    assert "default-src 'none'" in page.source
    specs = json.dumps([figure["spec"] for figure in page.content["figures"]])
    assert '"url"' not in specs


def test_every_section_stands_on_the_page_with_its_formula_and_sql(page: Page) -> None:
    assert [name for name in page.text if name] == [*SECTIONS, "mask", "made"]
    for name in SECTIONS:
        assert "from" in page.queries[name][0]
        assert "Formula and SQL" in page.text[name]


def test_the_head_says_what_was_traced(folder: Path, page: Page) -> None:
    tokens, texts = connect(folder / "store").sql("select sum(tokens), sum(sequences) from languages").fetchall()[0]
    for fact in ("qwen3_moe", "3 layers of 8 experts, top 2", "3, pivot eng_Latn", f"{tokens:,}", f"{texts:,}"):
        assert fact in page.text[""]


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "vocabulary"])
def test_the_sql_on_the_page_gives_the_data_on_the_page(folder: Path, page: Page, name: str) -> None:
    asked = connect(folder / "store").sql(page.queries[name][0]).pl()
    keys = [column for column in ("layers", "lang", "lang_a", "lang_b", "layer", "expert") if column in asked.columns]
    embedded = page.dataset(name).select(asked.columns).sort(keys).cast(dict(asked.schema))
    assert_frame_equal(embedded, asked.sort(keys), rel_tol=1e-4, abs_tol=1e-9)


def test_the_data_agree_with_the_views(folder: Path, page: Page) -> None:
    connection = connect(folder / "store")
    by_layer = connection.sql("select layer, isolation from jaccard_by_layer order by layer").pl()
    assert page.dataset("isolation")["mean"].to_numpy() == pytest.approx(by_layer["isolation"].to_numpy(), rel=1e-4)
    by_pair = connection.sql("select lang_a, lang_b, jaccard from jaccard_by_pair order by all").pl()
    overall = page.dataset("pairs").filter(pl.col("layers") == "all layers").sort("lang_a", "lang_b")
    assert overall["jaccard"].to_numpy() == pytest.approx(by_pair["jaccard"].to_numpy(), rel=1e-4)
    mask = json.loads((folder / "mask.json").read_text())
    chosen = {(item["layer"], item["expert"]) for item in mask["experts"]}
    rows = connection.sql("select layer, expert, share from activation where lang = 'swh_Latn'").fetchall()
    expected = sum(share for layer, expert, share in rows if (layer, expert) in chosen) / 3
    covered = dict(page.dataset("mask_coverage").select("lang", "coverage").iter_rows())
    assert covered["swh_Latn"] == pytest.approx(expected, rel=1e-4)


def test_every_chart_is_a_spec_that_vega_lite_compiles(page: Page) -> None:
    for figure in page.content["figures"]:
        rows = {name: page.dataset(name).to_dicts() for name in figure["datasets"]}
        spec = {**figure["spec"], "datasets": {**figure["spec"].get("datasets", {}), **rows}}
        svg = vl_convert.vegalite_to_svg(spec, config=page.content["config"])
        assert "<path" in svg, figure["name"]


def test_the_mask_is_shown_with_its_experts_its_summary_and_its_command(folder: Path, page: Page) -> None:
    text = page.text["mask"]
    assert page.dataset("mask").height == 6
    assert set(page.dataset("mask")["role"]) == {"specific", "shared"}
    for fact in ("rise", "swh_Latn", "6 of 24", "12.50%"):
        assert fact in text
    load = json.loads((folder / "mask.json").read_text())["summary"]["load"]
    shown = "".join(page.text["mask"].split())
    assert f"Loadofthetarget{load['target']:.1%}" in shown
    assert f"Loadoftheotherlanguages{load['others']:.1%}" in shown
    assert "scorecountspecificity" in shown
    assert "moetrace export rise STORE --run run --target swh_Latn --budget 6" in page.queries["mask"][0]


def test_an_older_mask_is_shown_without_counts_and_loads(folder: Path, tmp_path: Path) -> None:
    mask = json.loads((folder / "mask.json").read_text())
    del mask["summary"]["load"]
    for item in mask["experts"]:
        del item["count"]
    page = Page(write_report(folder / "store", tmp_path / "report.html", mask=mask))
    assert page.dataset("mask").height == 6
    shown = "".join(page.text["mask"].split())
    assert "Loadof" not in shown
    assert "scorespecificity" in shown


def test_the_sql_of_a_mask_runs_where_files_may_be_read(
    folder: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (query,) = [found for found in page.queries["mask"] if "create table mask" in found]
    asked = connect(folder / "store", locked=False).sql(query).pl()
    assert_frame_equal(page.dataset("mask_coverage"), asked, rel_tol=1e-4, abs_tol=1e-9, check_dtypes=False)


def test_the_command_of_a_mask_is_one_command_for_any_shell(folder: Path, tmp_path: Path) -> None:
    """A mask is a file from somebody: what it says is pasted into a terminal."""
    mask = json.loads((folder / "mask.json").read_text())
    run, target, parent = "$(touch run)", "swh_Latn; touch target #", "'`touch parent`"
    mask["provenance"]["run"] = run
    mask["strategy"] = {"name": "gap", "target": target, "parameters": {"parent": parent, "alpha": 0.5}}
    (command,) = Page(write_report(folder / "store", tmp_path / "report.html", mask=mask)).queries["mask"][:1]
    words = ["moetrace", "export", "gap", "STORE", "--run", run, "--target", target]
    asked = ["--alpha", "0.5", "--parent", parent, "--min-count", "0"]
    assert shlex.split(command) == [*words, *asked, "-o", "mask.json"]
    done = subprocess.run(["/bin/sh", "-c", f"moetrace() {{ :; }}; {command}"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_mask_without_a_target_lies_on_the_overlap_of_the_languages(folder: Path, tmp_path: Path) -> None:
    mask = json.loads((folder / "mask.json").read_text())
    mask["strategy"] = {"name": "sql", "target": None, "parameters": {}}
    shown = Page(write_report(folder / "store", tmp_path / "report.html", mask=mask))
    assert "overlap of the languages" in shown.text["mask"]
    assert "moetrace export" not in shown.text["mask"]


def test_a_mask_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    mask = json.loads((folder / "mask.json").read_text())
    mask["model"]["config_sha256"] = "1" * 64
    with pytest.raises(MaskError, match="with config digest 111111111111, this model"):
        write_report(folder / "store", tmp_path / "report.html", mask=mask)
    assert not (tmp_path / "report.html").exists()


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    record = make_record()
    hostile = "</script><script>alert(1)</script><b title=\"'&"
    page = report_of(tmp_path, replace(record, model={**record.model, "id": hostile, "family": hostile}))
    assert hostile not in page.source
    assert "<script>alert(1)" not in page.source
    assert page.text[""].count(hostile) == 3  # the title, the heading and the family
    assert len(page.scripts) == 3


def test_a_run_without_profiles_says_so_and_shows_the_rest(tmp_path: Path) -> None:
    page = report_of(tmp_path, make_record(tables=("sequences", "tokens", "routes", "usage")))
    assert "The run has no profiles" in page.text["pivot"]
    drawn = {figure["name"] for figure in page.content["figures"]}
    expected = {"isolation", "divergence", "pairs", "specificity", "entropy_lines", "entropy_heat"}
    assert drawn == expected | {"vocabulary", "vocabulary_r", "corpus"}


def test_intervals_and_the_floor_stand_on_the_page_and_the_note_says_how_they_were_made(page: Page) -> None:
    interval, floor = page.dataset("isolation_interval"), page.dataset("isolation_floor")
    mean = page.dataset("isolation")["mean"].to_numpy()
    assert np.all(interval["low"].to_numpy() <= mean + 1e-4)
    assert np.all(mean <= interval["high"].to_numpy() + 1e-4)
    assert np.all(floor["high"].to_numpy() > 0)
    assert "400 draws of all 12 text ids, of all languages" in page.text["isolation"]
    assert {"low", "high"} <= set(page.dataset("entropy").columns)


def test_a_page_without_intervals_says_that_differences_may_be_chance(folder: Path, tmp_path: Path) -> None:
    page = Page(write_report(folder / "store", tmp_path / "report.html", replicates=0))
    assert "isolation_interval" not in page.content["datasets"]
    assert "differences between near values may be chance" in page.text["isolation"]
    for replicates in (-1, 1):
        with pytest.raises(MoetraceError, match=f"replicates {replicates}: pass 0"):
            write_report(folder / "store", tmp_path / "report.html", replicates=replicates)


def test_scores_are_correlated_with_similarity(tmp_path: Path) -> None:
    languages = [f"l{number}_Latn" for number in range(6)]
    write_world(tmp_path / "store", make_world(4, make_record(languages=languages), texts=10))
    (tmp_path / "scores.csv").write_text(
        "lang,score\n" + "".join(f"{lang},{at / 7}\n" for at, lang in enumerate(languages))
    )
    page = Page(write_report(tmp_path / "store", tmp_path / "report.html", scores=tmp_path / "scores.csv"))
    found = page.dataset("scores")
    assert found["n"].to_list() == [5] * 3
    given = pl.DataFrame({"lang": languages, "score": [at / 7 for at in range(6)]})
    expected = metrics.score_correlation(connect(tmp_path / "store"), given).sort("layer")
    assert found["pearson"].to_numpy() == pytest.approx(expected["pearson"].to_numpy(), rel=1e-4)
    assert found["pearson_p_layers"].to_numpy() == pytest.approx(expected["pearson_p_layers"].to_numpy(), rel=1e-4)
    assert page.dataset("score_points").height == 5
    assert "among all layers" in page.text["scores"]
    with pytest.raises(MoetraceError, match="no column 'score'"):
        write_report(tmp_path / "store", tmp_path / "report.html", scores=pl.DataFrame({"lang": ["l0_Latn"]}))


def test_every_chart_is_valid_vega_lite(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page.check_charts() > 10
    monkeypatch.setitem(page.content["figures"][0]["spec"], "height", "tall")
    with pytest.raises(ValidationError):
        page.check_charts()


def test_how_it_was_made_has_the_record_and_the_definitions(folder: Path, page: Page) -> None:
    record = Store(folder / "store").run(None)
    for fact in (record.sha256(), record.model["config_sha256"], "weight precision", "f32"):
        assert fact in page.text["made"]
    for view in ("jaccard", "divergence_by_layer", "routing_entropy", "pivot_similarity"):
        assert view in page.text["made"]
    assert "2604.03592" in page.text["made"]


def test_no_setting_takes_the_place_of_what_the_record_says() -> None:
    record = make_record()
    names = ("run digest", "model", "experts")
    fake = {**dict.fromkeys(names, "fake"), "config_digest": "fake", "versions": dict.fromkeys(names, "fake")}
    facts = record_facts(replace(record, settings={**record.settings, **fake}))
    assert "fake" not in facts.values()
    assert facts["experts"] == f"{record.num_experts}, top {record.top_k}"


def test_the_controlled_curve_is_that_of_pairs_that_share_tokens(folder: Path, page: Page) -> None:
    pairs = metrics.divergence_vocabulary_controlled(connect(folder / "store")).filter(pl.col("token_share") >= 0.05)
    by_layer = pairs.group_by("layer").agg(pl.col("jsd", "jsd_controlled").mean()).sort("layer")
    found = page.dataset("vocabulary")
    for kind, column in (("plain", "jsd"), ("controlled", "jsd_controlled")):
        drawn = found.filter(kind=kind).sort("layer")["divergence"].to_numpy()
        assert drawn == pytest.approx(by_layer[column].to_numpy(), rel=1e-4)
    (query, _) = page.queries["vocabulary"][:2]
    assert connect(folder / "store").sql(query).pl().height == found.height


def test_imported_counts_alone_make_a_report(tmp_path: Path) -> None:
    record = make_record(tables=("usage",), languages=("eng_Latn", "swh_Latn"))
    counts = {"eng_Latn": np.full((3, 8), 5), "swh_Latn": np.tile(np.arange(8) + 1, (3, 1))}
    write_counts(tmp_path / "store", record, counts, {"eng_Latn": 20, "swh_Latn": 18})
    page = Page(write_report(tmp_path / "store", tmp_path / "report.html"))
    assert "decisions are not kept" in page.text[""]
    assert page.dataset("specificity").height == 2 * 3 * 8


def test_of_pairs_that_are_equally_far_apart_the_first_by_name_is_named(tmp_path: Path) -> None:
    languages = [f"l{number:02}" for number in range(20)]
    record = make_record(tables=("usage",), languages=languages)
    write_counts(tmp_path / "store", record, dict.fromkeys(languages, np.full((3, 8), 5)), dict.fromkeys(languages, 20))
    isolation = Page(write_report(tmp_path / "store", tmp_path / "report.html")).dataset("isolation")
    assert isolation.select("closest", "furthest").rows() == [("l00 and l01", "l00 and l01")] * 3


def test_one_language_alone_cannot_be_compared_and_the_page_says_it(tmp_path: Path) -> None:
    page = report_of(tmp_path, make_record(languages=("eng_Latn",)))
    for name in ("isolation", "divergence", "pairs", "specificity", "vocabulary"):
        assert "compares languages" in page.text[name]
    assert {figure["name"] for figure in page.content["figures"]} == {"entropy_lines", "entropy_heat", "corpus"}


def test_an_unfinished_run_is_shown_with_what_it_lacks(tmp_path: Path) -> None:
    record = make_record()
    world = make_world(5, record)
    write_world(tmp_path / "store", replace(world, texts={**world.texts, "swh_Latn": ()}))
    page = Page(write_report(tmp_path / "store", tmp_path / "report.html"))
    assert "Not in the store yet: swh_Latn." in page.text[""]


def test_many_languages_are_narrowed_down_and_the_page_says_to_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moetrace.analytics.report.pairs.MOST_ROWS", 100)
    languages = [f"l{number:02d}_Latn" for number in range(26)]
    page = report_of(tmp_path, make_record(languages=languages))
    assert "The page holds 12 of 26 languages" in page.text["specificity"]
    assert page.dataset("specificity")["lang"].n_unique() == 12
    assert languages[0] in page.dataset("specificity")["lang"]
    assert "325 pairs a layer" in page.text["pairs"]
    assert set(page.dataset("pairs")["layers"]) == {"all layers", "shallow layers", "middle layers", "deep layers"}


def test_what_cannot_be_reported_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean run"):
        write_report(folder / "store", tmp_path / "report.html", run="runn")
    with pytest.raises(StoreError, match="name the HTML file"):
        write_report(folder / "store", tmp_path)
    StoreWriter(tmp_path / "empty", make_record())
    with pytest.raises(StoreError, match="no finished shard"):
        write_report(tmp_path / "empty", tmp_path / "report.html")


def test_languages_alike_stand_together() -> None:
    family = np.array([0, 1, 2, 0, 1, 2, 0])
    similarity = np.where(family[:, None] == family, 0.9, 0.1)
    order = similarity_order([str(number) for number in range(7)], similarity)
    assert sorted(order) == [str(number) for number in range(7)]
    families = [family[int(name)] for name in order]
    assert sum(a != b for a, b in itertools.pairwise(families)) == 2


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_draws_every_chart_without_an_error(folder: Path, page: Page, tmp_path: Path) -> None:
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--enable-logging=stderr", "--window-size=1280,5000", "--virtual-time-budget=20000"),
        *(f"--user-data-dir={tmp_path}", "--dump-dom", (folder / "report.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    figures = len(page.content["figures"])
    assert 'data-failed=""' in done.stdout
    assert f'data-drawn="{figures}"' in done.stdout
    assert done.stdout.count('class="marks"') == figures
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def test_languages_are_in_words_beside_their_codes(page: Page) -> None:
    assert "deu_Latn German" in " ".join(page.text[""].split())
    assert "Similarity to eng_Latn (English)" in page.text["pivot"]
    (finding,) = [line for line in page.text["mask"].splitlines() if "of the routing decisions of swh_Latn" in line]
    assert "swh_Latn (Swahili)" in finding
    assert page.content["languages"]["names"] == ["German", "English", "Swahili"]


def test_each_figure_has_the_sql_of_what_it_draws(page: Page) -> None:
    asked = {figure["name"]: figure["sql"] for figure in page.content["figures"]}
    assert asked["isolation"] == page.queries["isolation"][0]
    assert asked["mask_grid"] in page.queries["mask"]
    assert all(asked.values())
