"""Mutations of valid inputs, each decided by one number: flipped bits, cuts, absurd values."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Sequence
from typing import Any

NUMBERS = (
    -1, 0, 1, 3, 255, 2**31, 2**63, 10**22, -(10**22), 10**400, 0.5, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = (
    "", " ", ".", "..", "/", "../../etc/passwd", "/dev/zero", "x" * 300, "a\nb", "\x1b[31m", "\0",
    "<img onerror=alert(1)>", "--help", "\u202eabc", "\ud800", "NaN", "1e999", "9" * 5000,
    "%s{}", "\xe9",
)  # fmt: skip
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [None], {"": None})
_TOKEN = re.compile(rb"[\w.+-]+|\s+|.", re.DOTALL)
_WORDS = (
    b"0", b"-1", b"1e400", b"NaN", b"-Infinity", b"null", b"true", b"9" * 5000, b"1" * 22, b'"',
    b"'", b"[" * 5000, b"{" * 5000, b"{" + b'"a":{' * 3000, b"- " * 3000, b"*a", b"&a",
    b"!!python/object:os.system", b"<<: *a", b"\0", b"\xff\xfe", b"\n", b":", b",",
    b"%", b"\x1b[2J", b"../" * 30, b"2026-99-99",
)  # fmt: skip


def mutated(content: bytes, number: int) -> bytes:
    """Return a file with flipped bits, cuts, swapped or absurd tokens."""
    draw = random.Random(number)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice((_flip, _flip, _cut, _splice, _tokens, _tokens, _sizes))(
            content, draw
        )
    return content


def mutated_json(record: Any, number: int) -> Any:
    """Return JSON values of which some are missing, absurd, or of another place."""
    draw = random.Random(number)
    record = copy.deepcopy(record)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(record))
        if not places:
            return draw.choice(VALUES)
        parent, key = draw.choice(places)
        kind = draw.randrange(8)
        if kind == 0 and isinstance(parent, dict):
            del parent[key]
        elif kind == 1:
            other, there = draw.choice(places)
            parent[key] = copy.deepcopy(other[there])
        elif kind == 2 and isinstance(parent, dict):
            parent[draw.choice(("x", "", "schema", key + " "))] = parent[key]
        elif kind == 3 and isinstance(parent, list):
            parent.extend(copy.deepcopy(parent[:3]) if draw.random() < 0.5 else [None])
        elif kind == 4 and isinstance(parent[key], list) and parent[key]:
            del parent[key][draw.randrange(len(parent[key])) :]
        elif kind == 5:
            parent[key] = [parent[key]]
        else:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
    return record


def json_bytes(record: Any) -> bytes:
    """Return JSON, also of what is none, such as NaN and lone surrogates."""
    return json.dumps(record, default=str).encode("utf-8", "surrogatepass")


def mutated_words(words: Sequence[str], number: int) -> list[str]:
    """Return a command line with absurd, missing, doubled and exchanged words."""
    draw = random.Random(number)
    found = list(words)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(found)) if found else 0
        kind = draw.randrange(6)
        value = str(draw.choice(VALUES))
        value = value.replace("\0", "?")  # no command line holds it
        if kind == 0 and found:
            del found[at]
        elif kind == 1 and found:
            found.insert(at, found[at])
        elif kind == 2 and found:
            other = draw.randrange(len(found))
            found[at], found[other] = found[other], found[at]
        elif kind == 3:
            found.insert(at, value)
        elif found:
            found[at] = value
    return found


def _places(value: Any) -> Any:
    """Yield each parent and key; of long lists some."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))[:4]
    else:
        return
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _flip(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    # Heads decide more than pixels do.
    most = len(changed) if draw.random() < 0.5 else min(len(changed), 200)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(most)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] if draw.random() < 0.7 else content[at:]


def _splice(content: bytes, draw: random.Random) -> bytes:
    first, second = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    part = content[first : min(second, first + 4000)]
    at = draw.randrange(len(content) + 1)
    kept = content if draw.random() < 0.5 else content[:first] + content[second:]
    return kept[:at] + part + kept[at:]


def _sizes(content: bytes, draw: random.Random) -> bytes:
    """Replace four bytes by a number that is absurd as a size."""
    if len(content) < 8:
        return content
    at = draw.randrange(min(len(content) - 4, 120))
    number = draw.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 100_000, 65_536))
    return content[:at] + number.to_bytes(4, draw.choice(("big", "little"))) + content[at + 4 :]


def _tokens(content: bytes, draw: random.Random) -> bytes:
    tokens = _TOKEN.findall(content[:20_000])
    if not tokens:
        return draw.choice(_WORDS)
    at, other = draw.randrange(len(tokens)), draw.randrange(len(tokens))
    kind = draw.randrange(4)
    if kind == 0:
        tokens[at], tokens[other] = tokens[other], tokens[at]
    elif kind == 1:
        del tokens[at]
    else:
        tokens[at] = draw.choice(_WORDS)
    return b"".join(tokens) + content[20_000:]
