"""Files of strangers, made at random: valid ones that were damaged, ones with odd values, and what was made to hurt.

A case is made of its seed alone, so that it can be made again.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.masks import mask_of
from tests.support.published import STATS, USAGE, random_task, write_stats, write_task, write_usage

if TYPE_CHECKING:
    import random
    from pathlib import Path

KINDS = ("esft", "archive", "usage-json", "rise-stats", "mask")
ODD_TEXTS = (
    "",
    "0",
    "65535",
    "65536",
    "-1",
    "01",
    "٣",
    "languages",
    "total_tokens",
    "a\nb",
    "\u202e",
    "\ud800",
    "😀",
    "../x",
    "x" * 5000,
    "<script>",
    "NaN",
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1.5, 255, 256, 65535, 65536, 2**31, 2**53, 2**63, 10**30, 10**4000),
    *(1e-320, 1e300, float("nan"), float("inf"), [], {}, [1, "a", None], {"0": 1}, [[]] * 9, "5", *ODD_TEXTS),
)
ODD_FIELDS = (
    *(b"", b"0", b"1", b"5", b"64", b"255", b"65535", b"65536", b"-1", b"+1", b"0x1", b"1.0", b"1e400", b"nan", b"inf"),
    *(b"3.4e38", b"1e-45", b"-0.0", b"\xff", b"\xc3\xbc", b" 1", b"9" * 400, b"\r", b"\x00", b"1_0"),
)


@dataclass(frozen=True)
class Case:
    """What to read: `kind` as in KINDS, the file or folder, and the options that a person would pass."""

    kind: str
    source: Path
    options: dict[str, Any] = field(default_factory=dict)


def make_case(rng: random.Random, folder: Path, kind: str | None = None) -> Case:
    kind = kind or rng.choice(KINDS)
    options: dict[str, Any] = {}
    if kind in {"esft", "archive"}:
        options = {"top_k": 2, "experts": 5, "shard_tokens": rng.choice([2, 4, 100])}
    if rng.random() < 0.15:
        options |= {"experts": rng.choice([1, 6, 64, 8192, 65536])}
    if rng.random() < 0.05:
        options |= {"top_k": rng.choice([1, 3, 255, 256])}
    source = MAKERS[kind](rng, folder)
    return Case(kind, source, {} if kind == "mask" else options)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Return content with some bytes changed, taken away, doubled or swapped."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        if not found:
            break
        at = rng.randrange(len(found))
        until = min(len(found), at + rng.choice([1, 1, 2, 5, 20, 1000]))
        match rng.randrange(6):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                del found[at:until]
            case 2:
                found[at:at] = found[at:until]
            case 3:
                found[at:until] = rng.choice(ODD_FIELDS)
            case 4:
                found[at:at] = rng.choice(
                    (b'"', b"{", b"}", b"[", b"]", b",", b"\t", b"\t\t", b"\n", b"\\", b"\xed\xa0\x80")
                )
            case _:
                del found[at:]
    return bytes(found)


def odd_json(rng: random.Random, tree: Any) -> str:
    """Return the text of a JSON tree in which some values and names are odd."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        parent, key = tree, None
        for _ in range(rng.randrange(1, 6)):
            child = parent if key is None else parent[key]
            if not isinstance(child, (dict, list)) or not child:
                break
            parent, key = child, rng.choice(list(child) if isinstance(child, dict) else range(len(child)))
        if key is None:
            continue
        if isinstance(parent, dict) and rng.random() < 0.3:
            parent[rng.choice(ODD_TEXTS)] = parent.pop(key)
        else:
            parent[key] = deepcopy(rng.choice(ODD_VALUES))  # a later change is not to change it for all cases
    text = json.dumps(tree, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
    return text.replace("Infinity", rng.choice(["1e999", "Infinity", "-1e999"]))


def heavy_json(rng: random.Random) -> bytes:
    """Return JSON whose objects take far more memory than its text, or far more time than they should."""
    size = rng.choice([10_000, 100_000, 400_000])
    inner: bytes = rng.choice(
        [
            b"[" * size,
            b'{"0":' * size,
            b"[" + b"[]," * size + b"0]",
            b"[" + b"{}," * size + b"0]",
            b"[" + b"1.5," * size + b"0]",
            b"{" + b",".join(b'"%x":1' % number for number in range(size)) + b"}",
            b"{" + b",".join(b'"%d":{"0":1}' % number for number in range(min(size, 65536))) + b"}",
            b'"' + b"\\\\" * size + b'"',
            b'"' + b"\\u00e9" * size + "😀".encode() + b'"',
            b"9" * size,
            b"[" + b'1,"a",' * size + b"0]",
            b'"' + b"x" * size,
        ]
    )
    if rng.random() < 0.3:
        return inner
    outer = rng.choice(
        [
            b'{"0":%s}',
            b'{"1":{"total_tokens":4,"0":%s}}',
            b'{"1":{"total_tokens":4,"65535":{"activation_tokens":4,"gate_values_sum":1}},"2":%s}',
            b'{"model_config":{"num_layers":65536,"num_experts_per_layer":65536,"num_experts_per_tok":1},"languages":%s}',
            b'{"model_config":{"num_experts_per_layer":65536,"num_experts_per_tok":1},"languages":{"a":%s}}',
            b'{"model_config":%s,"languages":{}}',
            b'{"format":"moetrace-mask","version":1,"experts":%s}',
            b'{"format":"moetrace-mask","strategy":{"parameters":{"x":%s}}}',
            b'{"format":"moetrace-mask","model":{"moe_layers":%s}}',
        ]
    )
    return outer.replace(b"%s", inner)


def _json_file(rng: random.Random, file: Path, valid: bytes) -> Path:
    match rng.randrange(10):
        case 0 | 1 | 2:
            file.write_bytes(damaged(rng, valid))
        case 3:
            file.write_bytes(valid)
        case 4 | 5 | 6 | 7:
            file.write_bytes(odd_json(rng, json.loads(valid)).encode("utf-8", errors="surrogatepass"))
        case 8:
            file.write_bytes(heavy_json(rng))
        case _:
            _no_plain_file(rng, file)
    return file


def _usage(rng: random.Random, folder: Path) -> Path:
    file = folder / "usage.json"
    return _json_file(rng, file, write_usage(file, USAGE, 4).read_bytes())


def _stats(rng: random.Random, folder: Path) -> Path:
    file = folder / "stats.json"
    return _json_file(rng, file, write_stats(file, STATS, experts=5, top_k=2, layers=3).read_bytes())


def _mask(rng: random.Random, folder: Path) -> Path:
    mask = mask_of([(1, 0), (1, 3), (4, 2)], moe_layers=[1, 4], num_experts=5, top_k=2, target="swh_Latn")
    mask["strategy"]["parameters"] = {"alpha": 0.5, "zones": {"shallow": [1], "deep": [4]}, "against": ["eng_Latn"]}
    mask["experts"][0]["score"] = 0.25
    return _json_file(rng, folder / "mask.json", json.dumps(mask).encode())


def _no_plain_file(rng: random.Random, file: Path) -> None:
    """Put something else than a file in a file's place."""
    file.unlink(missing_ok=True)
    match rng.randrange(7):
        case 0:
            os.mkfifo(file)
        case 1:
            file.symlink_to(file)
        case 2:
            file.symlink_to("nowhere")
        case 3:
            file.symlink_to(rng.choice(["/dev/zero", "/dev/tty", "/proc/self/mem", "/proc/self/maps"]))
        case 4:
            file.mkdir()
        case 5:
            with file.open("wb") as sparse:
                sparse.truncate(rng.choice([1 << 24, 1 << 40]))
        case _:
            file.symlink_to(file.parent)


def _task(rng: random.Random, folder: Path) -> Path:
    lengths = [rng.randrange(1, 5) for _ in range(rng.randrange(1, 5))]
    return write_task(folder / "task", random_task(rng.randrange(1000), lengths, [0, 3]))


def _esft(rng: random.Random, folder: Path) -> Path:
    task = _task(rng, folder)
    for _ in range(rng.choice([1, 1, 2])):
        file = task / f"expert_weights_{rng.choice([0, 3, 3, 7])}.txt"
        content = file.read_bytes() if file.is_file() else b"0\t1\t\t0.5\t0.5\n"
        match rng.randrange(8):
            case 0 | 1 | 2:
                file.write_bytes(damaged(rng, content)) if not file.is_symlink() else None
            case 3 | 4 | 5:
                lines = content.split(b"\n")
                fields = lines[at := rng.randrange(len(lines))].split(b"\t")
                fields[rng.randrange(len(fields))] = rng.choice(ODD_FIELDS)
                lines[at] = b"\t".join(fields)
                if not file.is_symlink():
                    file.write_bytes(rng.choice([b"\n", b"\n", b"\r\n", b"\r"]).join(lines))
            case 6:
                if not file.is_symlink() and not file.is_dir():
                    file.write_bytes(heavy_lines(rng))
            case _:
                if not file.is_dir():
                    _no_plain_file(rng, file)
                break
    return task


def heavy_lines(rng: random.Random) -> bytes:
    """Return lines that take far more memory than their text."""
    size = rng.choice([1000, 100_000, 600_000])
    pair, token = b"0\t1\t", b"1\t1\t"
    long = pair * size
    return rng.choice(
        [
            b"0\t1\t\t1\t1\n" * size,
            long[:-1] + b"\t\t" + (token * size)[:-1] + b"\n",
            b"\t" * size,
            b"\t\t\n" * size,
            b"x" * (20 * size),
            b"0\t1\t\t1\t" + b"1" * size + b"\n",
            b"\n" * size,
            b"".join(
                (pair * length)[:-1] + b"\t\t" + (token * length)[:-1] + b"\n"
                for length in range(1, 1 + min(700, size // 1000))
            ),
        ]
    )


def _archive(rng: random.Random, folder: Path) -> Path:
    task, file = _esft(rng, folder) if rng.random() < 0.3 else _task(rng, folder), folder / "task.tar"
    packed = rng.choice(["", "gz", "bz2", "xz"])
    with tarfile.open(file, f"w:{packed}", format=rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as archive:
        for path in sorted(task.iterdir()):
            if path.is_file() and path.stat().st_size < 1 << 24:
                archive.add(path, f"task/{path.name}", recursive=False)
        for _ in range(rng.choice([0, 0, 1, 2])):
            _odd_member(rng, archive)
    if rng.random() < 0.4:
        file.write_bytes(damaged(rng, file.read_bytes()))
    return file


def _odd_member(rng: random.Random, archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo(
        rng.choice(["task/expert_weights_3.txt", "../expert_weights_9.txt", "/etc/x", "task/\n\x1b"])
    )
    content = b""
    match rng.randrange(9):
        case 0:
            member.type, member.linkname = rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), "/etc/passwd"
        case 1:
            member.type = rng.choice([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.GNUTYPE_SPARSE, b"Z"])
        case 2:
            content = b"0\t1\t\t0.5\t0.5\n" * rng.choice([1, 10, 100_000])
        case 3:
            content = b"\0" * rng.choice([1 << 20, 70 << 20])
        case 4:
            member.name = "x" * rng.choice([300, 60_000, 2 << 20])
        case 5:
            member.pax_headers = {rng.choice(["size", "GNU.sparse.map", "GNU.sparse.major", "path", "comment"]): "-1"}
        case 6:
            member.pax_headers = {f"x{number}": "y" * 100 for number in range(rng.choice([10, 2000]))}
        case 7:
            member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
            content = b"999999999\n" + b"0\n" * 3000
        case _:
            member.size = rng.choice([1 << 20, 1 << 40])  # and nothing after it
            archive.addfile(member)
            return
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


MAKERS = {"esft": _esft, "archive": _archive, "usage-json": _usage, "rise-stats": _stats, "mask": _mask}
