"""Safe C++ names and strings from whatever a user called his layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

_RESERVED = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t "
    "char8_t class compl concept const const_cast consteval constexpr constinit continue co_await "
    "co_return co_yield decltype default delete do double dynamic_cast else enum explicit export "
    "extern false float for friend goto if inline int long main mutable namespace new noexcept not "
    "not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires "
    "return short signed sizeof static static_assert static_cast struct switch template this "
    "thread_local throw true try typedef typeid typename union unsigned using virtual void volatile "
    "wchar_t while xor xor_eq std hwq hls input output "
)
_KEYWORDS = frozenset(_RESERVED.split())
_LONGEST = 40


def clean(name: str) -> str:
    """A C identifier of ASCII letters, digits and single underscores; never a keyword, never empty."""
    text = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:_LONGEST].rstrip("_")
    if not text or text[0].isdigit() or text.lower() in _KEYWORDS:
        text = f"op_{text}".rstrip("_")
    return text


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """name -> identifier, all different even where a file system ignores case."""
    taken: set[str] = set()
    found: dict[str, str] = {}
    for name in names:
        base = candidate = clean(name)
        count = 1
        while candidate.lower() in taken:
            count += 1
            candidate = f"{base}_{count}"
        taken.add(candidate.lower())
        found[name] = candidate
    return found


def c_string(text: str) -> str:
    """A C string literal of the text's UTF-8 bytes; everything but plain characters as octal escapes."""
    plain = re.compile(rb"[A-Za-z0-9 _./:,+=()\[\]-]")
    coded = (
        chr(byte) if plain.match(bytes([byte])) else f"\\{byte:03o}"
        for byte in text.encode("utf-8", "surrogatepass")
    )
    return '"' + "".join(coded) + '"'
