"""Languages in words."""

from __future__ import annotations

import pytest

from moetrace.analytics.report.names import language_names, script_groups, script_of

NAMED = {
    "swh_Latn": "Swahili",
    "zho_Hans": "Chinese (Simplified)",
    "zho_Hant": "Chinese (Traditional)",
    "ory_Orya": "Odia",
    "sw": "Swahili",
    "de": "German",
    "pt-BR": "Portuguese (Brazil)",
    "tel": "Telugu",
    "gsw_Latn": "Swiss German",
}


@pytest.mark.parametrize("code", NAMED)
def test_codes_have_names(code: str) -> None:
    names = language_names([code])
    assert names.label(code) == f"{code} · {NAMED[code]}"
    assert names.said(code) == f"{code} ({NAMED[code].replace(' (', ', ').replace(')', '')})"


@pytest.mark.parametrize("label", ["l00_Latn", "xx", "nonsense", "math", "</script>", "", "x" * 4096, "constructor"])
def test_what_is_no_language_stays_as_it_is(label: str) -> None:
    names = language_names([label, "swh_Latn"])
    assert names.label(label) == names.said(label) == label
    assert names.words == {"swh_Latn": "Swahili"}
    assert script_of(label) is None


def test_a_task_that_looks_like_a_code_is_a_task() -> None:
    assert language_names(["law"]).words == {"law": "Lauje"}
    assert language_names(["intent", "summary", "law", "translation"]).words == {}


def test_scripts_tell_languages_of_one_name_apart() -> None:
    words = language_names(["arb_Arab", "arb_Latn", "deu_Latn"]).words
    assert words == {
        "arb_Arab": "Standard Arabic (Arabic)",
        "arb_Latn": "Standard Arabic (Latin)",
        "deu_Latn": "German",
    }
    assert language_names(["sw", "swh"]).words == {"sw": "Swahili", "swh": "Swahili"}


def test_groups_are_of_scripts_with_what_is_rare_put_together() -> None:
    many = ["swh_Latn", "de", "fra_Latn", "rus_Cyrl", "ukr_Cyrl", "l00"]
    assert script_groups(many) == {
        **dict.fromkeys(("swh_Latn", "de", "fra_Latn"), "Latin (3)"),
        **dict.fromkeys(("rus_Cyrl", "ukr_Cyrl"), "Cyrillic (2)"),
        "l00": "other scripts (1)",
    }
    codes = ("Arab", "Cyrl", "Deva", "Ethi", "Grek", "Hebr", "Taml", "Telu")
    groups = script_groups([f"{lang}_{code}" for code in codes for lang in ("deu", "swh")] + ["tha_Thai"])
    assert len(set(groups.values())) == 8
    assert next(iter(groups.values())) == "Arabic (2)"
    assert [lang for lang, group in groups.items() if group == "other scripts (3)"] == [
        "deu_Telu",
        "swh_Telu",
        "tha_Thai",
    ]
