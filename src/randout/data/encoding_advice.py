"""Advice on files that are not UTF-8: the likely encoding, and the `iconv` command that converts them.

A wrong guess must not silently corrupt characters. Therefore an encoding is suggested only if the whole sample decodes and
the decoded characters fit their neighbours (an accented lower-case letter within a word, a curly quote at its edge).
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

STANDARD_INPUT = "standard input"
SAMPLE = 2000  # number of non-ASCII lines examined
PLAUSIBLE = 0.6  # minimum mean score of non-ASCII characters for an encoding to be suggested
CANDIDATES = {  # Python codec -> name in iconv; of equally good ones the first is used
    "cp1252": "cp1252",
    "mac_roman": "macintosh",
    "cp1250": "cp1250",
    "cp850": "cp850",
    "cp1251": "cp1251",
    "koi8_r": "koi8-r",
    "cp866": "cp866",
    "cp1253": "cp1253",
    "cp932": "cp932",
    "euc_jp": "euc-jp",
    "gb18030": "gb18030",
    "cp949": "cp949",
    "big5": "big5",
}
EAST_ASIAN = ("cp932", "euc_jp", "gb18030", "cp949", "big5")
WITHIN_WORDS = "’–—­\N{NO-BREAK SPACE}"
MARKS = "‘’“”«»‹›„–—…•·€£¥§°©®™¿¡½¼¾²³ªº\N{NO-BREAK SPACE}"


def iconv_command(name: str, encoding: str) -> str:
    """Return the shell command that converts a file to UTF-8, with its name quoted if necessary."""
    if name == STANDARD_INPUT:
        return f"iconv -f {encoding} -t utf-8"
    return f"iconv -f {encoding} -t utf-8 {shlex.quote(name)} > utf8{Path(name).suffix}"


def utf16_or_32(data: bytes) -> tuple[str, str] | None:
    """Detect UTF-16 or UTF-32, with or without a byte order mark: return (encoding for iconv, evidence) or None."""
    if data[:4] in (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"):
        return "utf-32", "it starts with a UTF-32 byte order mark"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16", "it starts with a UTF-16 byte order mark"
    head = data[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < 2 or min(even, odd) > 0.02 * max(even, odd):
        return None
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        text = head[: len(head) // 2 * 2].decode(encoding, errors="strict" if len(data) <= len(head) else "ignore")
    except UnicodeDecodeError:
        return None
    if any(unicodedata.category(c) in ("Cn", "Co") or (c < " " and c not in "\t\r\n") for c in text):
        return None
    return encoding.replace("-le", "le").replace("-be", "be"), "every other byte is zero"


def advice(data: bytes, name: str) -> str:
    """Advise what to do about a file that is not valid UTF-8: a conversion, or why none is suggested."""
    lines = list(_lines(data))
    whole = [number for number, line in lines if _decoded(line, "utf-8") is not None]
    broken = [number for number, line in lines if _decoded(line, "utf-8") is None]
    if whole:
        shown = ", ".join(map(str, broken[:5])) + (f" and {len(broken) - 5:,} more" if len(broken) > 5 else "")
        return (
            f"Other lines are UTF-8 (line {whole[0]}), so converting the file would damage them: the file mixes two "
            f"encodings, or texts were cut within a character. Correct or remove line{'s' * (len(broken) > 1)} {shown}."
        )
    codec, line = best_codec([line for _, line in lines])
    if codec is None:
        return (
            "Save it as UTF-8 with the program that wrote it. (No common encoding fits, so no conversion is suggested.)"
        )
    encoding, python = CANDIDATES[codec], codec
    if codec == "cp1252" and not any(0x80 <= byte < 0xA0 for _, line in lines for byte in line):
        encoding = python = "latin1"  # they differ only in these bytes
    return (
        f"It looks like {encoding}: {_excerpt(line)!r}. If that is correct, read it with --encoding {python}, "
        f"or convert it: {iconv_command(name, encoding)}"
    )


def best_codec(lines: list[bytes]) -> tuple[str | None, str]:
    """Find the best codec of `CANDIDATES` for non-ASCII lines: return (codec or None, first line decoded with it)."""
    best, found, first = PLAUSIBLE, None, ""
    for codec in CANDIDATES:
        decoded = [_decoded(line, codec) for line in lines]
        texts = [text for text in decoded if text is not None]
        if not texts or len(texts) < len(decoded):
            continue
        score = _score("\n".join(texts), codec)
        if score > best + 0.02:
            best, found, first = score, codec, texts[0]
    return found, first


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of the first `SAMPLE` non-ASCII lines."""
    found = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.isascii():
            yield number, line.rstrip(b"\r")
            found += 1
            if found == SAMPLE:
                return


def _decoded(line: bytes, codec: str) -> str | None:
    try:
        return line.decode(codec)
    except UnicodeDecodeError:
        return None


def _excerpt(line: str) -> str:
    """Return about 40 characters around the first non-ASCII one."""
    at = next((i for i, c in enumerate(line) if not c.isascii()), 0)
    return line[max(0, at - 20) : at + 20].strip()


def _score(text: str, codec: str) -> float:
    """Return the mean over non-ASCII characters of how well each fits its neighbours: -5 (control character) to 1."""
    padded = f" {text} "
    scores = []
    for i, char in enumerate(padded[1:-1], 1):
        if char.isascii():
            continue
        if unicodedata.category(char) in ("Cc", "Cn", "Co"):
            scores.append(-5.0)
        elif codec in EAST_ASIAN:
            scores.append(_fit_east_asian(char, codec))
        else:
            scores.append(_fit(padded[i - 1], char, padded[i + 1]))
    return sum(scores) / len(scores) if scores else 0.0


def _fit(before: str, char: str, after: str) -> float:
    if unicodedata.category(char) in ("Lu", "Ll", "Lo", "Lm"):
        return _fit_letter(before, char, after)
    if before.isalpha() and after.isalpha():
        return 1.0 if char in WITHIN_WORDS else -1.0
    if char in "„‚" and before.isalpha():
        return -1.0
    return 0.9 if char in MARKS else 0.0


def _fit_letter(before: str, char: str, after: str) -> float:
    """Score a letter: neighbours should be of the same script, and no capital should follow a small letter."""
    latin, near = _script(char) == "LATIN", [other for other in (before, after) if other.isalpha()]
    if char.lower() == char.upper():  # ª, º
        return 0.0
    if any(_script(other) != _script(char) for other in near):
        return -1.0
    if char.isupper() and before.isalpha() and before.islower():
        return -1.0
    if char.islower() and before.isupper() and after.isupper():
        return -1.0
    if not near:
        return 1.0 if latin and char in "àÀáéÉóíýèôœ" else 0.0
    if (
        latin and len(near) == 2 and not any(other.isascii() for other in near)
    ):  # only accented letters: another alphabet, misread
        return -0.5
    return 1.0


def _fit_east_asian(char: str, codec: str) -> float:
    """Score an East Asian character: common characters are plausible; rare ones suggest another encoding."""
    japanese, korean = codec in ("cp932", "euc_jp"), codec == "cp949"
    if unicodedata.category(char)[0] == "P":
        return 0.8
    if "\u3040" <= char <= "\u30ff":
        return 1.0 if japanese else 0.0
    if "\uac00" <= char <= "\ud7a3":
        return 1.0 if korean and _lead(char, "euc_kr") else -1.0
    if korean:
        return -0.2
    standard, first, last = {"gb18030": ("gb2312", 0xB0, 0xD7), "big5": ("big5", 0xA4, 0xC6)}.get(
        codec, ("shift_jis", 0x88, 0x97)
    )
    return 0.8 if first <= _lead(char, standard) <= last else -0.5  # level 1 of the standard: frequent characters


def _lead(char: str, codec: str) -> int:
    """Return the first byte of a two-byte character, or 0 if it does not have two bytes."""
    try:
        code = char.encode(codec)
    except UnicodeEncodeError:
        return 0
    return code[0] if len(code) == 2 else 0


def _script(char: str) -> str:
    return unicodedata.name(char, "?").split()[0]
