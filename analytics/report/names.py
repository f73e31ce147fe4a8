"""Languages in words: "Swahili" for swh_Latn and sw, and the script that a language is written in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import langcodes
from langcodes.tag_parser import LanguageTagError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_SCRIPTS = 7  # groups of their own; the rest is one group
ALWAYS_SAID = {"Hans", "Hant"}  # scripts that readers name a language by
CHINESE = {"Hans": "Chinese, simplified", "Hant": "Chinese, traditional"}
ONE_LANGUAGE = " (individual language)"
MOST_NAMED = 5  # names that a list in words has
LONGEST = 40  # characters of a label that is looked up


@dataclass(frozen=True)
class Names:
    """The names of a page's languages: code -> name in words. A label that is no language is not in it."""

    words: Mapping[str, str]

    def label(self, code: str) -> str:
        """Return "swh_Latn · Swahili", or the code alone where it has no name."""
        return f"{code} · {self.words[code]}" if code in self.words else code

    def said(self, code: str) -> str:
        """Return "swh_Latn (Swahili)", as a sentence takes it, or the code alone where it has no name."""
        return f"{code} ({self.words[code].replace(' (', ', ').rstrip(')')})" if code in self.words else code


def language_names(codes: Sequence[str]) -> Names:
    """Return the names of languages by their codes, ISO 639 or BCP 47, also with an underscore as FLORES has them.

    None has a name where most labels are no codes: `law` among `intent` and `summary` is a task, not Lauje. Where two
    would have one name, the script tells them apart, and where it does not, the code has to.
    """
    languages = {code: tag for code in codes if (tag := _language(code)) is not None}
    if 2 * len(languages) < len(set(codes)):
        return Names({})
    words = {code: _words(tag) for code, tag in languages.items()}
    shared = {name for name, count in Counter(words.values()).items() if count > 1}
    for code, tag in languages.items():
        if words[code] in shared and tag.script:
            words[code] = f"{words[code]} ({tag.script_name()})"
    return Names(words)


def script_of(code: str) -> str | None:
    """Return the English name of the script that a code names, or of the one its language is mostly written in."""
    tag = _language(code)
    if tag is None:
        return None
    script = tag.script or tag.maximize().script
    if script is None:
        return None
    return CHINESE.get(script) or langcodes.Language.make(script=script).script_name()


def script_groups(codes: Sequence[str]) -> dict[str, str]:
    """Return code -> "Latin (121)", its script with the number of its languages, the largest groups first.

    Beyond MOST_SCRIPTS, of scripts of one language, and where nothing is known, languages are in "other scripts".
    """
    scripts = {code: script_of(code) for code in codes}
    counts = Counter(script for script in scripts.values() if script is not None)
    ranked = sorted((script for script in counts if counts[script] > 1), key=lambda script: (-counts[script], script))
    own = ranked[:MOST_SCRIPTS]
    rest = sum(script not in own for script in scripts.values())
    named = {script: f"{script} ({counts[script]})" for script in own}
    groups = {code: named.get(script or "", f"other scripts ({rest})") for code, script in scripts.items()}
    order = [*named.values(), f"other scripts ({rest})"]
    return dict(sorted(groups.items(), key=lambda item: order.index(item[1])))


@cache
def _language(code: str) -> langcodes.Language | None:
    if len(code) > LONGEST:
        return None
    try:
        tag = langcodes.Language.get(code)
    except LanguageTagError:
        return None
    return tag if tag.language and tag.is_valid() else None


def _words(tag: langcodes.Language) -> str:
    name = tag.language_name().removesuffix(ONE_LANGUAGE)
    if tag.territory:
        return f"{name} ({tag.territory_name()})"
    return f"{name} ({tag.script_name()})" if tag.script in ALWAYS_SAID else name


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words, the first few of many."""
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
