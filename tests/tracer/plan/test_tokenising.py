"""A plan is the same to the byte however many processes made it, and however often it was killed and made again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from moetrace.cli.main import moetrace
from moetrace.store.errors import MoetraceError
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.plan import parts as parts_module
from moetrace.tracer.plan import pool as pool_module
from moetrace.tracer.plan import tokenising
from moetrace.tracer.plan.kept import KeptParts
from moetrace.tracer.plan.plan import Plan, make_plan
from moetrace.tracer.plan.progress import SaidNowAndThen
from moetrace.tracer.plan.prompts import PromptSettings, encoder
from moetrace.tracer.plan.tokenising import Effort, Tokeniser
from tests.support.encoding import DEADLY, REFUSED, Letters, lines_corpus
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from moetrace.tracer.plan.prompts import Encode

TEXTS = {"eng": 90, "swh": 70, "zul": 1}
PART = 8  # texts
PARTS = sum(-(-count // PART) for count in TEXTS.values())


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PART_TEXTS", PART)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for lang, count in TEXTS.items():
        write(folder, lang, [f"text {number} of {lang}, {'long ' * (number % 7)}é" for number in range(count)])
    return folder


def write(folder: Path, lang: str, texts: list[str]) -> None:
    lines = [json.dumps({"id": f"t{number}", "text": text}) for number, text in enumerate(texts)]
    (folder / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def planned(folder: Path, encode: Encode, effort: Effort, **options: object) -> Plan:
    return make_plan(lines_corpus(folder), encode, **{"shard_tokens": 100, "window": 40, **options}, effort=effort)


def content(plan: Plan) -> tuple[str, str, dict[str, object], dict[str, int], list[object]]:
    """Everything that a plan says, the bytes of its spool included."""
    spool = plan.spool
    assert spool is not None
    size = os.fstat(spool._file.fileno()).st_size
    shards = [
        (
            shard.key,
            shard.text_ids,
            shard.seqs.tobytes(),
            shard.truncated.tobytes(),
            [i.tobytes() for i in shard.token_ids],
        )
        for shard in plan.shards
    ]
    spooled = hashlib.sha256(os.pread(spool._file.fileno(), size, 0)).hexdigest()
    return spooled, plan.corpus_sha256, plan.corpus_record(), plan.missing, shards


def letters(folder: Path | None) -> KeptParts | None:
    return None if folder is None else KeptParts(folder, "letters", 1 << 20)


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def all_gone(processes: set[int], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(gone, processes)):
        time.sleep(0.02)
    return all(map(gone, processes))


def test_the_plan_is_the_same_however_many_processes_made_it(corpus: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    expected = content(planned(corpus, Letters(), Effort()))
    assert len(expected[4]) > 40
    for workers, kept in ((1, True), (2, True), (4, True), (2, False)):
        folder = tmp_path / str(workers) if kept else None
        log.unlink(missing_ok=True)
        encode = Letters(log, seconds=0.02)
        assert content(planned(corpus, encode, Effort(workers, letters(folder), patience=0))) == expected
        processes = set(encode.calls())
        assert len(encode.calls()) == PARTS
        assert os.getpid() not in processes
        assert len(processes) == workers
        assert all_gone(processes, seconds=0.1), "the plan is made when its processes have ended"
        if kept:
            assert content(planned(corpus, encode, Effort(workers, letters(folder), patience=0))) == expected
            assert len(encode.calls()) == PARTS, "nothing was tokenised again"


def test_a_small_corpus_starts_no_process_and_keeps_nothing(corpus: Path, tmp_path: Path) -> None:
    encode = Letters(tmp_path / "log")
    planned(corpus, encode, Effort(2, letters(tmp_path / "kept"), patience=60))
    assert set(encode.calls()) == {os.getpid()}
    assert not (tmp_path / "kept").exists()


def test_what_was_tokenised_before_the_corpus_turned_out_large_is_kept_too(corpus: Path, tmp_path: Path) -> None:
    encode = Letters(tmp_path / "log")
    kept = letters(tmp_path / "kept")
    planned(corpus, encode, Effort(0, kept, patience=0.0003))
    assert len(encode.calls()) == PARTS
    assert len(list((tmp_path / "kept").iterdir())) == PARTS


KILLED = """
import sys
from pathlib import Path
from moetrace.tracer.plan import parts
from moetrace.tracer.plan.kept import KeptParts
from moetrace.tracer.plan.plan import make_plan
from moetrace.tracer.plan.tokenising import Effort
from tests.support.encoding import Letters, lines_corpus
folder, log, kept, workers = sys.argv[1:]
parts.PART_TEXTS = 8
effort = Effort(int(workers), KeptParts(Path(kept), "letters", 1 << 20), patience=0)
make_plan(lines_corpus(Path(folder)), Letters(Path(log), 0.1), shard_tokens=100, window=40, effort=effort)
"""


@pytest.mark.parametrize(("workers", "how"), [(0, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGINT)])
def test_a_killed_plan_goes_on_and_leaves_no_process(corpus: Path, tmp_path: Path, workers: int, how: int) -> None:
    encode, kept = Letters(tmp_path / "log"), tmp_path / "kept"
    arguments = [str(corpus), str(encode.log), str(kept), str(workers)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(encode.calls()) < 8:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait(timeout=60) != 0
    started = set(encode.calls())
    assert len(started) == max(1, workers)
    assert all_gone(started)
    before, whole = len(encode.calls()), len(list(kept.glob("*.part")))
    assert whole >= before - max(1, workers), "all but what was under way"
    again = Effort(workers, letters(kept), patience=0)
    made = planned(corpus, encode, again)
    assert len(encode.calls()) - before == PARTS - whole
    assert content(made) == content(planned(corpus, Letters(), Effort()))


def test_a_text_that_changed_in_between_is_seen(corpus: Path, tmp_path: Path) -> None:
    def plan(**options: object) -> Plan:
        kept = letters(tmp_path / "kept")
        return planned(corpus, encode, Effort(0, kept, patience=0), **options)

    encode = Letters(tmp_path / "log")
    plan()
    write(corpus, "swh", [f"other text {number}" if number == 20 else f"text {number}" for number in range(70)])
    plan()
    written = len(encode.calls())
    assert written == PARTS + -(-70 // PART)
    lines = (corpus / "swh.jsonl").read_text().splitlines()
    lines[20] = lines[20].replace("other", "third")
    (corpus / "swh.jsonl").write_text("\n".join(lines) + "\n")
    made = plan(window=11)
    assert len(encode.calls()) == written + 1, "only the part with the text, whatever the window"
    assert content(made) == content(planned(corpus, Letters(), Effort(), window=11))


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({60: "---"}, "text 't60' of swh has no tokens"),
        ({60: "x" * 50}, "text 't60' of swh has 50 tokens, the window is 40"),
        ({10: "x" * 50, 60: "---"}, "text 't10' of swh has 50 tokens"),
        ({60: " "}, "text 't60' of swh is empty"),
        ({11: "---", 60: " "}, "text 't11' of swh has no tokens"),
        ({60: REFUSED}, "a text that cannot be encoded"),
        ({11: "x" * 50, 60: REFUSED}, "text 't11' of swh has 50 tokens"),
    ],
)
def test_the_first_error_of_a_corpus_is_told_however_many_processes_there_are(
    tmp_path: Path, spoiled: dict[int, str], message: str
) -> None:
    write(tmp_path, "eng", [f"text {number}" for number in range(70)])
    write(tmp_path, "swh", [spoiled.get(number, f"text {number}") for number in range(70)])
    for workers in (0, 2):
        with pytest.raises((MoetraceError, ValueError), match=message) as raised:
            planned(tmp_path, Letters(), Effort(workers, patience=0), on_long="error")
        assert isinstance(raised.value, MoetraceError) == ("cannot be encoded" not in message)


def test_a_worker_that_is_killed_is_one_clear_error_and_no_other_stays(corpus: Path, tmp_path: Path) -> None:
    write(corpus, "swh", [*(f"text {number}" for number in range(40)), DEADLY, *map(str, range(40))])
    encode = Letters(tmp_path / "log", seconds=0.05)
    with pytest.raises(MoetraceError, match=r"tokenises the corpus was killed by signal 9; .* is kept"):
        planned(corpus, encode, Effort(3, patience=0))
    assert len(set(encode.calls())) >= 2
    assert all_gone(set(encode.calls()), seconds=0.1)


def test_more_processes_are_started_while_all_are_busy(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "FIRST", 1)
    encode = Letters(tmp_path / "log", seconds=0.05)
    made = planned(corpus, encode, Effort(3, patience=0))
    assert len(set(encode.calls())) >= 2
    assert content(made) == content(planned(corpus, Letters(), Effort()))


def test_what_cannot_be_sent_to_a_process_is_used_here(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode = Letters(tmp_path / "log")
    made = planned(corpus, lambda texts: encode(texts), Effort(2, patience=0))  # noqa: PLW0108  cannot be pickled
    assert set(encode.calls()) == {os.getpid()}
    assert "the corpus is tokenised in one process" in caplog.text
    assert content(made) == content(planned(corpus, Letters(), Effort()))


def test_a_folder_that_cannot_be_written_costs_only_the_resuming(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    for workers in (0, 1):
        caplog.clear()
        kept = letters(tmp_path / "file" / "plans")
        made = planned(corpus, Letters(), Effort(workers, kept, patience=0))
        assert content(made) == content(planned(corpus, Letters(), Effort()))
        assert [record.levelname for record in caplog.records] == ["WARNING"]


CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}{% endfor %}"


@pytest.mark.parametrize("kind", ["fast", "chat", "slow"])
def test_real_tokenizers_encode_alike_in_another_process(corpus: Path, tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer, ByT5Tokenizer

    tokenizer = ByT5Tokenizer() if kind == "slow" else AutoTokenizer.from_pretrained(MODEL)
    settings = PromptSettings(chat=True, system="Be brief.", chat_template=CHAT) if kind == "chat" else PromptSettings()
    encode = encoder(tokenizer, settings, answered=True)
    kept = KeptParts(tmp_path / "kept", encode.digest(), encode.vocabulary)
    expected = content(planned(corpus, encode, Effort()))
    assert content(planned(corpus, encode, Effort(1, kept, patience=0))) == expected
    with Tokeniser(encode, Effort(0, kept, patience=0)) as tokeniser:
        made = list(tokeniser.run(iter(parts_module.Parts(lines_corpus(corpus)))))
    assert (tokeniser.tokenised, tokeniser.found) == (0, PARTS)
    texts = [text.text for lang in TEXTS for text in lines_corpus(corpus).read(lang)]
    assert np.concatenate([part.tokens.ids for part in made]).tolist() == [i for ids in encode(texts) for i in ids]


def test_what_decides_the_tokens_decides_what_is_found() -> None:
    from transformers import AutoTokenizer

    def digest(*, answered: bool = False, **settings: object) -> str:
        return encoder(AutoTokenizer.from_pretrained(MODEL), PromptSettings(**settings), answered=answered).digest()

    chat = {"chat": True, "chat_template": CHAT}
    different = [
        digest(),
        digest(**chat),
        digest(**chat, answered=True),
        digest(**chat, system="Be brief."),
        digest(chat=True, chat_template=CHAT + " "),
    ]
    assert len(set(different)) == len(different)
    assert digest(**chat) == different[1]
    added = AutoTokenizer.from_pretrained(MODEL)
    added.add_tokens(["moetrace"])
    other = encoder(added, PromptSettings(), answered=False)
    assert other.digest() != different[0]
    assert (
        other.vocabulary
        == encoder(AutoTokenizer.from_pretrained(MODEL), PromptSettings(), answered=False).vocabulary + 1
    )


def test_inspecting_a_large_corpus_keeps_its_parts_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["inspect", "bundled", "--corpus", "bundled", "--limit", "12", "--no-time", "--json"]
    monkeypatch.setenv("MOETRACE_CACHE", str(tmp_path))
    plain = CliRunner().invoke(moetrace, command)
    assert (plain.exit_code, list(tmp_path.iterdir())) == (0, [])
    monkeypatch.setattr(tokenising, "PATIENCE", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    for _ in range(2):
        again = CliRunner().invoke(moetrace, command)
        assert again.stdout == plain.stdout
        assert len(list((tmp_path / "plans").glob("*.part"))) == 12 * 2


def test_a_long_plan_says_how_far_it_is_and_not_too_often() -> None:
    now, said = [0.0], []
    progress = SaidNowAndThen(said.append, clock=lambda: now[0])
    for second in range(400):
        now[0] = float(second)
        progress(1000 * second, 50_000 * second)
    assert said[0] == "tokenised 5,000 texts, 250,000 tokens so far"
    assert [int(words.split()[1].replace(",", "")) // 1000 for words in said] == [
        5,
        15,
        35,
        75,
        135,
        195,
        255,
        315,
        375,
    ]
