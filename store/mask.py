"""The moetrace mask, version 1: what is in its file, writing it to the byte, reading it with checks.

It stands between what selects experts and what trains or steers them; `analytics.masks` makes it from a selection.
"""

from __future__ import annotations

import json
import math
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from moetrace.store.errors import MoetraceError
from moetrace.store.format.regular_file import read_regular
from moetrace.store.format.strict_json import DEEPEST, JsonError, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SCHEMA_FILE = Path(__file__).with_name("mask.schema.json")
DIGITS = 9  # significant digits of every float: more than a ranking needs, fewer than machines disagree about


MOST_BYTES = 5 << 20  # of a mask's file: all 24,000 experts of the largest models take 3 MB
MOST_ITEMS = 4096  # of a list or an object in it, but for `experts`: languages, layers, parameters
LONGEST_TEXT = 4096  # characters
QUERY, LONGEST_QUERY = "$.strategy.parameters.query", 1 << 16  # of `export sql`: the one text that may have lines
WHITE = str.maketrans("\n\r\t", "   ")
LARGEST = 2**63 - 1  # whole number
MOST_ERRORS = 1000  # of which the one to tell is chosen


class MaskError(MoetraceError):
    """A mask file is damaged, not a mask, or contradicts itself."""


def mask_text(mask: Mapping[str, Any]) -> str:
    """Return a mask as the text of its file, the same for the same mask; raise MaskError where it is not a mask."""
    rounded = rounded_floats(mask)
    check_mask(rounded, "this mask")
    return json_text(rounded)


def read_mask(path: str | Path) -> dict[str, Any]:
    """Read a mask file; raise MaskError, naming file and place, where it is not a valid mask or names no expert."""
    try:
        mask = parse_json(read_regular(path, MOST_BYTES), most=MOST_BYTES)
    except OSError as error:
        raise MaskError(f"{path}: cannot be read as a mask ({error.strerror or error})") from error
    except JsonError as error:
        raise MaskError(f"{path}{', ' if str(error).startswith('line ') else ': '}{_shortened(str(error))}") from error
    check_mask(mask, str(path))
    if not mask["experts"]:
        raise MaskError(f"{path}, $.experts: the mask has no experts; there is nothing to train or to convert")
    return dict(mask)


def check_mask(mask: Any, where: str) -> None:
    """Raise MaskError, naming `where` and the place in it, for what is no mask, or contradicts itself."""
    _check_values(mask, where)
    found = jsonschema.exceptions.best_match(islice(_validator().iter_errors(mask), MOST_ERRORS))
    if found is not None:
        raise MaskError(f"{where}, {found.json_path}: {_shortened(found.message)}")
    model, experts = mask["model"], mask["experts"]
    layers, seen = set(model["moe_layers"]), set()
    for index, item in enumerate(experts):
        place, key = f"{where}, $.experts[{index}]", (item["layer"], item["expert"])
        if item["layer"] not in layers:
            raise MaskError(f"{place}: layer {item['layer']} is not one of the model's MoE layers")
        if item["expert"] >= model["num_experts"]:
            raise MaskError(f"{place}: expert {item['expert']}, but a layer has {model['num_experts']} experts")
        if key in seen:
            raise MaskError(f"{place}: layer {key[0]}, expert {key[1]} stands twice")
        seen.add(key)
    pool = len(layers) * model["num_experts"]
    for name, counted in (("experts", len(experts)), ("pool", pool)):
        if mask["summary"][name] != counted:
            raise MaskError(f"{where}, $.summary.{name}: says {mask['summary'][name]}, the mask has {counted}")


def _check_values(value: Any, where: str, place: str = "$", depth: int = 0) -> None:
    """Raise MaskError, naming `where` and the place in it, for a value that no mask has, wherever it stands.

    Whoever reads a mask may then print its texts, count with its numbers, and go down into its lists.
    """
    if isinstance(value, (dict, list, tuple)):
        if depth > DEEPEST:
            raise MaskError(f"{where}, {_shortened(place)}: objects and lists are nested deeper than {DEEPEST}")
        if len(value) > MOST_ITEMS and place != "$.experts":
            raise MaskError(f"{where}, {_shortened(place)}: {len(value):,} items, more than {MOST_ITEMS:,}")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict):
                _check_scalar(key, where, place)
            _check_values(item, where, f"{place}.{key}" if isinstance(value, dict) else f"{place}[{key}]", depth + 1)
    else:
        _check_scalar(value, where, place)


def _check_scalar(value: Any, where: str, place: str) -> None:
    wrong, most = None, LONGEST_QUERY if place == QUERY else LONGEST_TEXT
    if isinstance(value, str):
        line = value.translate(WHITE) if place == QUERY else value
        if len(value) > most or not line.isprintable():
            wrong = f"{_shortened(repr(value))} is no text of at most {most:,} printable characters"
    elif isinstance(value, float) and not math.isfinite(value):
        wrong = f"{value} is not a number"
    elif isinstance(value, int) and abs(value) > LARGEST:
        wrong = f"a number above {LARGEST:,}"
    if wrong:
        raise MaskError(f"{where}, {_shortened(place)}: {wrong}")


def check_mask_fits(
    mask: Mapping[str, Any],
    *,
    config_sha256: str | None,
    moe_layers: Sequence[int],
    num_experts: int,
    top_k: int,
    where: str,
) -> None:
    """Raise MaskError, naming `where` and the first difference, where a mask is of another model than this one.

    - config_sha256: the digest of the model's config as run records have it; compared where both sides know theirs
    - moe_layers: decoder indices of the model's MoE layers, in any order
    - where: what the error begins with, the mask's file as a rule
    """
    model = mask["model"]
    if sorted(moe_layers) != sorted(model["moe_layers"]):
        raise MaskError(
            f"{where}: the mask is of a model whose MoE layers are {in_spans(model['moe_layers'])}, "
            f"this model's are {in_spans(moe_layers)}"
        )
    for name, words, of_model in (
        ("num_experts", "experts in a layer", num_experts),
        ("top_k", "experts chosen for each token (top-k)", top_k),
    ):
        if model[name] != of_model:
            raise MaskError(f"{where}: the mask is of a model with {model[name]} {words}, this model has {of_model}")
    theirs = model["config_sha256"]
    if None not in {theirs, config_sha256} and theirs != config_sha256:
        raise MaskError(
            f"{where}: the mask is of {model['id']} with config digest {theirs[:12]}, "
            f"this model's config has digest {str(config_sha256)[:12]}"
        )


def mask_targets(mask: Mapping[str, Any]) -> list[str]:
    """Return the languages that a mask is for."""
    target = mask["strategy"]["target"]
    return [] if target is None else [target] if isinstance(target, str) else list(target)


def in_spans(numbers: Iterable[int]) -> str:
    """Return numbers as ascending spans: 1-3, 5, 7-9."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)


def rounded_floats(value: Any) -> Any:
    """Return JSON values with every float at DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded_floats(item) for key, item in value.items()}
    return [rounded_floats(item) for item in value] if isinstance(value, (list, tuple)) else value


def json_text(value: Any, indent: int = 0) -> str:
    """Return JSON text that people can read: objects down the page, lists of numbers on a line, one expert a line."""
    inner, outer = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {json_text(item, indent + 1)}" for key, item in value.items()]
        text = "{" + inner + f",{inner}".join(items) + outer + "}"
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        text = "[" + inner + f",{inner}".join(_on_a_line(item) for item in value) + outer + "]"
    else:
        text = _on_a_line(value)
    return text if indent else text + "\n"


def _on_a_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _shortened(message: str, most: int = 200) -> str:
    return message if len(message) <= most else f"{message[: most // 2]} ... {message[-most // 2 :]}"


@cache
def _validator() -> jsonschema.Draft202012Validator:
    # JSON Schema takes 5.0 for an integer; as the number of a layer it is none.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    strict: type[jsonschema.Draft202012Validator] = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, type_checker=types
    )
    return strict(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
