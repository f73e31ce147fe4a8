"""A server that steers: by default, by name, in streams and chats, recorded or not, and what it refuses."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import intervention_text
from moetrace.store.read.reader import Store
from moetrace.tracer.bundled import MODEL
from tests.support.server import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Server

pytestmark = pytest.mark.engine

PROMPT = "The temperature of the"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def written(folder: Path, name: str, mode: str) -> Path:
    cells = [{"layer": layer, "expert": expert} for layer in (2, 3, 4) for expert in (1, 5)]
    value = {"format": "moetrace-intervention", "version": 1, "name": name, "steps": [{"mode": mode, "experts": cells}]}
    (folder / f"{name}.json").write_text(intervention_text(value), encoding="utf-8")
    return folder / f"{name}.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("steer")
    files = ",".join(str(written(folder, name, mode)) for name, mode in (("up", "promote"), ("down", "suppress")))
    (folder / "template.jinja").write_text(TEMPLATE)
    chat = ("--chat-template", str(folder / "template.jinja"))
    with servers(folder, *chat, MOETRACE_STEER=files, MOETRACE_STORE=str(folder / "store")) as start:
        server = start(MOETRACE_LANG="eng_Latn")
        server.folder = folder
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)


def body(name: str | None, text_id: str) -> dict[str, Any]:
    asked = {} if name is None else {"moetrace_steer": name}
    return {"ignore_eos": True, "vllm_xargs": {**asked, "moetrace_id": text_id}}


def test_requests_are_steered_by_name_and_by_default(client: Any, server: Any) -> None:
    import openai

    def said(name: str | None, text_id: str, *, stream: bool = False) -> str:
        asked = {"model": "micro", "prompt": PROMPT, "max_tokens": 12, "temperature": 0.0}
        answer = client.completions.create(**asked, stream=stream, extra_body=body(name, text_id))
        return "".join(part.choices[0].text for part in answer) if stream else answer.choices[0].text

    texts = {name: said(name, f"plain-{name}") for name in ("none", "up", "down")}
    assert len(set(texts.values())) == 3
    assert said(None, "default") == texts["up"]
    assert said("down", "streamed", stream=True) == texts["down"]
    with pytest.raises(openai.BadRequestError, match="there is no intervention 'left'; there are none, down, up"):
        said("left", "unknown")
    assert said("none", "after") == texts["none"]  # the server goes on

    message = [{"role": "user", "content": PROMPT}]
    chatted = [
        client.chat.completions.create(
            model="micro", messages=message, max_tokens=12, temperature=0.0, extra_body=body(name, f"chat-{name}")
        )
        .choices[0]
        .message.content
        for name in ("none", "up")
    ]
    assert chatted == [texts["none"], texts["up"]]

    server.stop(signal.SIGTERM)
    shares = """
        select text_id, avg(promoted)::double from (
            select text_id, lang, shard, token, layer, max((expert in (1, 5))::int) as promoted
            from routes join tokens using (run, lang, shard, token) join sequences using (run, lang, shard, seq)
            where layer in (2, 3, 4) group by all
        ) group by all
    """
    opened = connect(server.folder / "store")
    found = dict(opened.sql(shares).fetchall())
    assert [found[name] for name in ("plain-up", "default", "chat-up")] == [1.0] * 3
    assert [found[name] for name in ("plain-down", "streamed")] == [0.0] * 2
    assert 0 < found["plain-none"] == found["after"] == found["chat-none"] < 1
    assert "unknown" not in found
    steering = Store(server.folder / "store").run("micro-live").settings["steering"]
    assert steering["default"] == "up"
    assert set(steering["interventions"]) == {"up", "down"}


def test_what_cannot_steer_stops_the_server_before_it_starts(tmp_path: Path) -> None:
    from vllm.engine.arg_utils import EngineArgs

    from moetrace.tracer.steering.serving import steering_options

    config = EngineArgs(model=str(MODEL)).create_engine_config()
    up = written(tmp_path, "up", "promote")
    assert steering_options(config, f" {up} ,")["default"] == "up"
    for files, said in (
        (f"{up},{up}", "two interventions are called up"),
        (str(tmp_path / "none.json"), "cannot be read as an intervention"),
        (",", "MOETRACE_STEER=,: names no file"),
    ):
        with pytest.raises(MoetraceError, match=said):
            steering_options(config, files)
