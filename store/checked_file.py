"""JSON files that people hand round, masks and interventions: read within limits, held against a schema, written alike.

What is read here is data of strangers: whoever has it may print its texts, count with its numbers, and go down into its
lists.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import jsonschema

from moetrace.store.format.regular_file import read_regular
from moetrace.store.format.strict_json import DEEPEST, JsonError, parse_json

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping
    from pathlib import Path

    from moetrace.store.errors import MoetraceError

DIGITS = 9  # significant digits of every float: more than a ranking needs, fewer than machines disagree about

MOST_BYTES = 5 << 20  # of a file: all 24,000 experts of the largest models take 3 MB
MOST_ITEMS = 4096  # of a list or an object in it, but for those of experts: languages, layers, parameters
LONGEST_TEXT = 4096  # characters
WHITE = str.maketrans("\n\r\t", "   ")
LARGEST = 2**63 - 1  # whole number
MOST_ERRORS = 1000  # of which the one to tell is chosen


@dataclass(frozen=True)
class FileKind:
    """What a kind of file is called, its schema, what may be longer in it than elsewhere, and what is raised.

    - noun: "a mask"; schema: the file with its JSON Schema
    - long_lists: pattern of the places whose lists may have more than MOST_ITEMS items
    - long_texts: the places whose texts may have lines, and how many characters
    """

    noun: str
    schema: Path
    error: type[MoetraceError]
    long_lists: re.Pattern[str]
    long_texts: Mapping[str, int] = field(default_factory=dict, hash=False)

    def parse(self, path: str | Path) -> Any:
        """Read a file's JSON, whatever it says; raise `error`, naming the file, where it has none."""
        try:
            return parse_json(read_regular(path, MOST_BYTES), most=MOST_BYTES)
        except OSError as error:
            raise self.error(f"{path}: cannot be read as {self.noun} ({error.strerror or error})") from error
        except JsonError as error:
            separator = ", " if str(error).startswith("line ") else ": "
            raise self.error(f"{path}{separator}{shortened(str(error))}") from error

    def check(self, value: Any, where: str) -> None:
        """Raise `error`, naming `where` and the place in it, for what is not of this kind."""
        self._check_values(value, where)
        found = jsonschema.exceptions.best_match(islice(_validator(self.schema).iter_errors(value), MOST_ERRORS))
        if found is not None:
            raise self.error(f"{where}, {found.json_path}: {shortened(found.message)}")

    def _check_values(self, value: Any, where: str, place: str = "$", depth: int = 0) -> None:
        """Raise `error` for a value that no such file has, wherever it stands."""
        if isinstance(value, (dict, list, tuple)):
            if depth > DEEPEST:
                raise self.error(f"{where}, {shortened(place)}: objects and lists are nested deeper than {DEEPEST}")
            if len(value) > MOST_ITEMS and not self.long_lists.fullmatch(place):
                raise self.error(f"{where}, {shortened(place)}: {len(value):,} items, more than {MOST_ITEMS:,}")
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(value, dict):
                    self._check_scalar(key, where, place)
                inside = f"{place}.{key}" if isinstance(value, dict) else f"{place}[{key}]"
                self._check_values(item, where, inside, depth + 1)
        else:
            self._check_scalar(value, where, place)

    def _check_scalar(self, value: Any, where: str, place: str) -> None:
        wrong, most = None, self.long_texts.get(place, LONGEST_TEXT)
        if isinstance(value, str):
            line = value.translate(WHITE) if place in self.long_texts else value
            if len(value) > most or not line.isprintable():
                wrong = f"{shortened(repr(value))} is no text of at most {most:,} printable characters"
        elif isinstance(value, float) and not math.isfinite(value):
            wrong = f"{value} is not a number"
        elif isinstance(value, int) and abs(value) > LARGEST:
            wrong = f"a number above {LARGEST:,}"
        if wrong:
            raise self.error(f"{where}, {shortened(place)}: {wrong}")


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


def shortened(message: str, most: int = 200) -> str:
    """Return a message with its middle left out where it is longer than `most` characters."""
    return message if len(message) <= most else f"{message[: most // 2]} ... {message[-most // 2 :]}"


def _on_a_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@cache
def _validator(schema: Path) -> jsonschema.Draft202012Validator:
    # JSON Schema takes 5.0 for an integer; as the number of a layer it is none.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    strict: type[jsonschema.Draft202012Validator] = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, type_checker=types
    )
    return strict(json.loads(schema.read_text(encoding="utf-8")))
