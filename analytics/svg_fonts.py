"""An SVG that carries its fonts: the letters that it uses, of the fonts by which they were measured, as WOFF in it.

vl-convert measures with fonts of its own, which the reader's machine may not have, and puts them only into a PDF. So
the letters are printed into a PDF, one by one, and its font gets the two tables that a PDF may leave out. Programs that
read no fonts from an SVG take the next name in its list, as before.
"""

from __future__ import annotations

import base64
import html
import itertools
import re
import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import vl_convert

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FAMILY = "moetrace"
SIMPLE = 0x0590  # code points below it stand side by side; those of scripts that join letters are left to the reader
TEXT = re.compile(r"<text\b([^>]*)>(.*?)</text>", re.DOTALL)
LOOKS = {"font-family": "sans-serif", "font-weight": "normal", "font-style": "normal"}
WEIGHTS = {"normal": "400", "bold": "700"}
OBJECT = re.compile(rb"\b(\d+) 0 obj(.*?)endobj", re.DOTALL)
LETTER = re.compile(rb"<([0-9A-F]{4})> <([0-9A-F]{4})>\n")
HEADER, ENTRY, WOFF, WOFF_ENTRY = ">4sHHHH", ">4sIII", ">4s4sIHHIHHIIIII", ">4sIIII"


@dataclass(frozen=True)
class Look:
    """How a text is set: a list of families, a weight and a style."""

    family: str
    weight: str
    style: str


def with_fonts(svg: str) -> str:
    """Return an SVG of vl-convert with the fonts of its texts in it."""
    letters: dict[Look, set[str]] = defaultdict(set)
    for attributes, text in TEXT.findall(svg):
        shown = html.unescape(re.sub(r"<[^>]*>", "", text))
        letters[_look(attributes)] |= {letter for letter in shown if letter >= " " and ord(letter) < SIMPLE}
    names: dict[Look, str] = {}
    rules: list[str] = []
    for look in sorted(letters, key=str):
        faces = [_rule(f"{FAMILY}-{len(names)}", look, *face) for face in _faces(look, "".join(sorted(letters[look])))]
        if faces:
            names[look] = f"{FAMILY}-{len(names)}"
            rules += faces
    if not rules:
        return svg

    def named(found: re.Match[str]) -> str:
        name = names.get(_look(found[1]))
        if name is None:
            return found[0]
        attributes = re.sub(r'font-family="', f'font-family="{name}, ', found[1])
        return f"<text{attributes}>{found[2]}</text>"

    head, end, rest = TEXT.sub(named, svg).partition(">")
    return f"{head}{end}<style>{''.join(rules)}</style>{rest}"


def _look(attributes: str) -> Look:
    given = dict(re.findall(r'(font-[a-z]+)="([^"]*)"', attributes))
    family, weight, style = (given.get(name, usual) for name, usual in LOOKS.items())
    return Look(family, WEIGHTS.get(weight, weight), style)


def _rule(name: str, look: Look, font: bytes, letters: Mapping[int, int]) -> str:
    ranges = ",".join(f"U+{code:X}" for code in sorted(letters))
    source = base64.b64encode(font).decode("ascii")
    return (
        f"@font-face{{font-family:{name};font-weight:{look.weight};font-style:{look.style};unicode-range:{ranges};"
        f"src:url(data:font/woff;base64,{source})}}"
    )


def _faces(look: Look, letters: str) -> Iterator[tuple[bytes, Mapping[int, int]]]:
    """Yield the fonts that vl-convert sets letters in, as WOFF, each with its letters' glyphs by code point."""
    style = f'font-family="{look.family}" font-weight="{look.weight}" font-style="{look.style}" font-size="10"'
    # A text each, so that no two letters become one glyph.
    texts = "".join(f'<text x="0" y="9" {style}>{html.escape(letter)}</text>' for letter in letters)
    page = f'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">{texts}</svg>'
    objects = dict(OBJECT.findall(vl_convert.svg_to_pdf(page)))
    for body in objects.values():
        if b"/Subtype /Type0" not in body:
            continue
        descriptor = objects[_reference(objects[_reference(body, b"DescendantFonts")], b"FontDescriptor")]
        if b"/FontFile2" not in descriptor:
            continue  # not TrueType: left to the reader's fonts
        pairs = LETTER.findall(_stream(objects[_reference(body, b"ToUnicode")]))
        glyphs = {int(code, 16): int(glyph, 16) for glyph, code in pairs if chr(int(code, 16)) in letters}
        tables = _tables(_stream(objects[_reference(descriptor, b"FontFile2")]))
        if glyphs:
            tables = tables | {b"cmap": _cmap(glyphs), b"OS/2": _os2(glyphs, tables)}
            yield _woff(tables), glyphs


def _reference(body: bytes, name: bytes) -> bytes:
    found = re.search(rb"/" + name + rb" \[?(\d+) 0 R", body)
    return found[1] if found else b""


def _stream(body: bytes) -> bytes:
    """Return what the stream of a PDF's object says."""
    head, _, rest = body.partition(b"stream\n")
    length = re.search(rb"/Length (\d+)", head)
    data = rest[: int(length[1])] if length else rest
    return zlib.decompress(data) if b"/FlateDecode" in head else data


def _tables(font: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">H", font, 4)
    entries = (struct.unpack_from(ENTRY, font, 12 + 16 * index) for index in range(count))
    return {tag: font[start : start + length] for tag, _, start, length in entries}


def _cmap(glyphs: Mapping[int, int]) -> bytes:
    """Return the table from code points to glyphs, format 4, a segment a letter."""
    codes = sorted(glyphs)
    count = len(codes) + 1
    ends = [*codes, 0xFFFF]
    deltas = [*((glyphs[code] - code) % 65536 for code in codes), 1]
    power = 1 << (count.bit_length() - 1)
    searching = (2 * count, 2 * power, power.bit_length() - 1, 2 * (count - power))
    words = [*searching, *ends, 0, *ends, *deltas, *[0] * count]
    table = struct.pack(f">{len(words)}H", *words)
    return struct.pack(">HHHHI", 0, 1, 3, 1, 12) + struct.pack(">HHH", 4, len(table) + 6, 0) + table


def _os2(glyphs: Mapping[int, int], tables: Mapping[bytes, bytes]) -> bytes:
    """Return the table of what a system wants to know of a font, from what the others say."""
    (em,) = struct.unpack_from(">H", tables[b"head"], 18)
    ascent, descent, gap = struct.unpack_from(">hhh", tables[b"hhea"], 4)
    half = em // 2
    lines = [half, half, 0, half // 3, half, half, 0, half, em // 20, em // 4]  # sub-, superscripts, the line through
    head = struct.pack(">HhHHH10hh", 3, half, 400, 5, 0, *lines, 0)
    signs = struct.pack(">10x4I4sHHH", 1, 0, 0, 0, b"    ", 0x40, min(glyphs), max(glyphs))
    return (
        head
        + signs
        + struct.pack(">hhhHHIIhhHHH", ascent, descent, gap, ascent, -descent, 1, 0, half, ascent, 0, 32, 1)
    )


def _woff(tables: Mapping[bytes, bytes]) -> bytes:
    """Return tables as a WOFF file, version 1."""
    names = sorted(tables)
    start = 44 + 20 * len(names)
    size = 12 + 16 * len(names) + sum(-len(tables[name]) % 4 + len(tables[name]) for name in names)
    entries, body = b"", b""
    for name in names:
        plain = tables[name]
        packed = min(zlib.compress(plain, 9), plain, key=len)
        entries += struct.pack(WOFF_ENTRY, name, start + len(body), len(packed), len(plain), _checksum(name, plain))
        body += packed + bytes(-len(packed) % 4)
    head = struct.pack(
        WOFF, b"wOFF", b"\0\1\0\0", start + len(body), len(names), 0, size, 1, 0, *itertools.repeat(0, 5)
    )
    return head + entries + body


def _checksum(name: bytes, table: bytes) -> int:
    if name == b"head":  # its own sum of the whole font counts as 0
        table = table[:8] + bytes(4) + table[12:]
    padded = table + bytes(-len(table) % 4)
    words: tuple[int, ...] = struct.unpack(f">{len(padded) // 4}I", padded)
    return sum(words) % 2**32
