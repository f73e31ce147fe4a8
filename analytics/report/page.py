"""The page: a run's sections, the charts' libraries and their data in one HTML file that needs no network."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup, escape

from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.analytics.metrics.scores import read_scores
from moetrace.analytics.report.corpus import corpus
from moetrace.analytics.report.divergence import divergence
from moetrace.analytics.report.entropy import entropy
from moetrace.analytics.report.experts import FIRST, expert_frames
from moetrace.analytics.report.following import following
from moetrace.analytics.report.header import Header, header
from moetrace.analytics.report.isolation import isolation
from moetrace.analytics.report.layer_charts import MOST_LINES
from moetrace.analytics.report.made import made
from moetrace.analytics.report.mask_input import fitting_mask
from moetrace.analytics.report.mask_map import mask_section
from moetrace.analytics.report.names import Names, language_names, script_groups
from moetrace.analytics.report.ordering import clusters, similarity_matrix
from moetrace.analytics.report.pairs import pairs
from moetrace.analytics.report.pivot import pivot
from moetrace.analytics.report.scores import scores as scores_section
from moetrace.analytics.report.script import page_script
from moetrace.analytics.report.section import Section, pack
from moetrace.analytics.report.source import Source
from moetrace.analytics.report.specificity import specificity
from moetrace.analytics.report.style import DARK, SERIES, configuration
from moetrace.analytics.report.vocabulary import vocabulary
from moetrace.analytics.uncertainty.curves import REPLICATES
from moetrace.store.errors import MoetraceError, StoreError
from moetrace.store.format.schema import FORMAT_VERSION
from moetrace.store.mask import mask_targets
from moetrace.store.output import write_text
from moetrace.store.read.reader import Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.analytics.report.section import Figure

HERE = Path(__file__).parent
EXPOSE_EMBED = "window.vegaEmbed = vegaEmbed;"
MOST_CLUSTERS = 8
MOST_ELEMENTS = 2000


def write_report(
    store_path: str | Path,
    output_html: str | Path,
    *,
    run: str | None = None,
    mask: Mapping[str, Any] | str | Path | None = None,
    scores: pl.DataFrame | str | Path | None = None,
    replicates: int = REPLICATES,
) -> Path:
    """Write the report of a run as one self-contained HTML file and return its path.

    `run` may be left out where the store has one; `mask` is a mask in the moetrace format, or the file of one; `scores`
    a table of lang and score, or the file of one (.csv or .parquet); `replicates` how often texts are drawn for
    intervals, 0 for a page without them. Raises UnknownNameError for an unknown run, StoreError for a store or a run
    without data, OutputError where the file cannot be written, MoetraceError for fewer than 0 replicates or 1, and what
    reading a mask or scores raises.
    """
    check_replicates(replicates)
    store = Store(store_path)
    record = store.run(run)
    languages = tuple(store.languages(record.run))
    if not languages:
        raise StoreError(f"{store.url}: run '{record.run}' has no finished shard yet, so there is nothing to report")
    output = check_writable(output_html)
    chosen = None if mask is None else fitting_mask(mask, record)
    given = scores if scores is None or isinstance(scores, pl.DataFrame) else read_scores(scores)
    with connect(store) as connection:
        targets = mask_targets(chosen) if chosen else []
        source = Source(connection, record, languages, replicates, tuple(targets))
        more = {"zones": source.zone_frame, **expert_frames(source, targets)}
        html = render(header(store, source), sections(source, chosen, given), languages, more)
    write_text(output, html)
    return output


def sections(
    source: Source, mask: Mapping[str, Any] | None = None, given_scores: pl.DataFrame | None = None
) -> tuple[Section, ...]:
    """Return the sections in reading order."""
    targets = mask_targets(mask) if mask else []
    found = [
        isolation(source),
        divergence(source),
        pivot(source, targets),
        pairs(source),
        specificity(source, targets),
        entropy(source, targets),
        vocabulary(source),
        corpus(source),
    ]
    if given_scores is not None:
        found.insert(3, scores_section(source, given_scores))
    if mask:
        found.append(mask_section(source, mask))
    return (*found, made({source.record.run: source}, found, page_facts()))


def page_facts() -> dict[str, str]:
    """Return what a page says of its own making: name -> value."""
    return {"store format": str(FORMAT_VERSION), "this page by moetrace": _version()}


def check_replicates(replicates: int) -> None:
    """Raise MoetraceError for a number of draws that no interval can be made of; 0 is none."""
    if replicates < 0 or replicates == 1:
        raise MoetraceError(f"replicates {replicates}: pass 0 for a page without intervals, or 200 and more")


def check_writable(output_html: str | Path) -> Path:
    """Return the path to write to; raise StoreError for a folder."""
    output = Path(output_html)
    if output.is_dir():
        raise StoreError(f"{output}: is a folder; name the HTML file to write")
    return output


def render(head: Header, found: tuple[Section, ...], languages: Sequence[str], more: Mapping[str, pl.DataFrame]) -> str:
    """Return the page of some sections about `languages`; `more` are tables beside those of sections."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = language_names(languages)
    environment.filters["named"] = lambda text: _named(text, names)
    environment.filters["sentence"] = lambda text: _sentence(text, names)
    frames = {name: frame for section in found for name, frame in section.datasets.items()}
    figures = [drawn for section in found for drawn in section.figures]
    content = {
        "config": configuration(),
        "dark": configuration(dark=True),
        "recolour": DARK,
        "palette": SERIES,
        "languages": _languages(languages, names, frames.get("pairs")),
        "first": FIRST,
        "sections": [section.name for section in found],
        "datasets": {name: pack(frame) for name, frame in {**more, **frames}.items()},
        "figures": [
            {
                "name": item.name,
                "spec": following(item.spec, names),
                "datasets": item.datasets,
                "renderer": _renderer(item, frames),
                "sql": item.sql,
            }
            for item in figures
        ],
    }
    return environment.get_template("page.html").render(
        header=head,
        sections=found,
        content=_json_for_html(content),
        libraries=_libraries(),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=page_script(),
        views=views().values(),
        version=_version(),
        store_format=FORMAT_VERSION,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _renderer(drawn: Figure, frames: Mapping[str, pl.DataFrame]) -> str:
    """Return what a figure is drawn with: marks beyond some thousand are no elements of the page."""
    rows = max((frames[name].height for name in drawn.datasets if name in frames), default=0)
    return "canvas" if rows > MOST_ELEMENTS else drawn.renderer


def _languages(codes: Sequence[str], names: Names, pairs_of: pl.DataFrame | None) -> dict[str, Any]:
    """Return the languages as columns: code, name or "", the groups of each way to group lines."""
    script = script_groups(codes)
    found: dict[str, Any] = {
        "codes": list(codes),
        "names": [names.words.get(code, "") for code in codes],
        "script": [script[code] for code in codes],
        "most_lines": MOST_LINES,
    }
    if pairs_of is not None and len(codes) > 2:
        alike = clusters(codes, similarity_matrix(pairs_of, codes), min(MOST_CLUSTERS, len(codes) // 2))
        found["cluster"] = [alike[code] for code in codes]
    return found


def _named(text: str, names: Names) -> Markup | str:
    """Return the cell of a table, the language that it names in words as well."""
    if text not in names.words:
        return text
    return Markup('{} <span class="words">{}</span>').format(text, names.words[text])


def _sentence(text: str, names: Names) -> Markup:
    """Return a sentence, each code with its name behind it the first time; what may be a word stays alone."""
    codes = sorted((code for code in names.words if "_" in code), key=len, reverse=True)
    if not codes:
        return escape(text)
    parts = re.split(rf"\b({'|'.join(map(re.escape, codes))})\b", text)
    return Markup("").join(part if part in parts[:at] else names.said(part) for at, part in enumerate(parts))


def _json_for_html(content: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in, whatever the names in it."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _libraries() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, of the Vega-Lite version whose specs altair writes."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    available = vl_convert.get_vegalite_versions()
    return str(vl_convert.javascript_bundle(EXPOSE_EMBED, vl_version=version if version in available else None))


def _version() -> str:
    try:
        return metadata.version("moetrace")
    except metadata.PackageNotFoundError:
        return "not installed"
