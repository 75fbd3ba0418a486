"""The report on a set of pictures as text for people: what matters most comes first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDTH = 110
HEADINGS = {
    "error": "ERRORS, to put right before training",
    "warning": "WARNINGS",
    "note": "GOOD TO KNOW",
}


def report_text(report: Mapping[str, Any], names_shown: int) -> str:
    """The whole report; of each kind of problem so many pictures are named."""
    lines = [f"{report['name']}: {report['pictures']:,} pictures, checked for --resolution {report['resolution']}"]
    lines.append(_verdict(report))
    for level, heading in HEADINGS.items():
        found = [finding for finding in report["findings"] if finding["level"] == level]
        if found:
            lines += ["", heading]
        for finding in found:
            lines += _finding(finding, names_shown)
    lines += ["", "THE PICTURES", *_facts(report)]
    lines += ["", f"TOKENS of {report['prompts']['tokenizer']} tokenizer", *_prompts(report["prompts"])]
    if report["crops"]:
        lines += ["", "WHAT IS CUT AWAY", *_crops(report["crops"])]
    if report["sheets"]:
        lines += ["", f"Contact sheets: {', '.join(report['sheets'])}"]
    elif report["findings"]:
        lines += ["", "To see these pictures: --output_dir FOLDER writes them on a contact sheet."]
    return "\n".join(lines)


def _verdict(report: Mapping[str, Any]) -> str:
    counts = [(report["errors"], "error"), (report["warnings"], "warning")]
    said = [f"{count} kind{'' if count == 1 else 's'} of {noun}" for count, noun in counts if count]
    return f"{' and '.join(said)}." if said else "Nothing is wrong with them."


def _finding(finding: Mapping[str, Any], shown: int) -> Iterator[str]:
    advice = textwrap.wrap(f"{finding['title']}. {finding['advice']}", WIDTH - 4, break_on_hyphens=False)
    yield f"  - {advice[0]}"
    yield from (f"    {line}" for line in advice[1:])
    cases = finding["cases"]
    names = [_joined(case["names"], finding["kind"], shown) for case in cases[:shown]]
    width = min(40, max(map(len, names), default=0))
    for case, name in zip(cases, names):
        text = f"{name:<{width}}  {case['detail']}".rstrip()
        yield from textwrap.wrap(
            text, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 10, break_on_hyphens=False
        )
    if len(cases) > shown:
        yield f"        and {len(cases) - shown:,} more"


def _joined(names: Sequence[str], kind: str, shown: int) -> str:
    sign = " = " if kind == "copies" else " ~ "
    more = f"{sign}{len(names) - shown:,} more" if len(names) > shown + 1 else ""
    return sign.join(names[: shown if more else None]) + more


def _facts(report: Mapping[str, Any]) -> Iterator[str]:
    facts, captions = report["facts"], report["captions"]
    formats = ", ".join(f"{count:,} {name}" for name, count in facts["formats"].items()) or "none that can be read"
    yield f"  files         {formats}"
    if "shapes" in facts:
        side, ratio = facts["shorter_side"], facts["width_to_height"]
        yield (
            f"  shorter side  {side['least']:,.0f} to {side['most']:,.0f} pixels, half of them "
            f"{side['median']:,.0f} or more"
        )
        shapes = ", ".join(f"{count:,} {name}" for name, count in facts["shapes"].items() if count)
        yield f"  shape         {shapes}; width : height {ratio['least']:.2f} to {ratio['most']:.2f}"
        if facts["sharpness"]:
            sharp = facts["sharpness"]
            yield f"  sharpness     {sharp['least']:.1f} to {sharp['most']:.1f}, median {sharp['median']:.1f}"
    if captions["count"]:
        tokens = captions["tokens"]
        yield (
            f"  captions      {captions['count']:,}, {captions['different']:,} different; {tokens['least']:.0f} to "
            f"{tokens['most']:.0f} tokens of {captions['limit']} with start and end, median {tokens['median']:.0f}"
        )


def _prompts(prompts: Mapping[str, Any]) -> Iterator[str]:
    for split in prompts["split"]:
        yield from _columns(split["words"])
    verdict = prompts["rare_word"]
    if verdict is not None and verdict["is_good"]:
        yield f"  {verdict['text']}: good."
    if verdict is not None:
        yield f"  Rare words of one token: {', '.join(prompts['proposals'])}"


def _columns(words: Sequence[Sequence[tuple[str, int]]]) -> Iterator[str]:
    """Words above their ids; the tokens of one word are joined by a bar."""
    above, below = "  ", "  "
    for word in words:
        text, ids = "|".join(piece for piece, _ in word), "|".join(str(number) for _, number in word)
        width = max(len(text), len(ids)) + 2
        if len(above) + width > WIDTH and above.strip():
            yield from (above.rstrip(), below.rstrip())
            above, below = "  ", "  "
        above, below = above + text.ljust(width), below + ids.ljust(width)
    yield from (above.rstrip(), below.rstrip())


def _crops(crops: Mapping[str, Any]) -> Iterator[str]:
    square = crops["square"]
    yield (
        f"  As squares: {square['cropped_mean']:.1%} of a picture on average, {square['cropped_most']:.1%} at most "
        f"({square['most_cropped']})."
    )
    if crops["text"] is None:
        yield f"  There are no buckets: {crops['why_no_buckets']}."
        return
    yield f"  With --use_aspect_ratio_bucket ({crops['bucket_table']}) and {crops['train_batch_size']} pictures a step:"
    yield from (f"  {line}" for line in crops["text"].splitlines())
