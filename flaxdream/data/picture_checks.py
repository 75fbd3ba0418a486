"""What is wrong with pictures, from one look at each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.examined import Examined
from flaxdream.data.findings import Case, Finding, Level, cases_of, counted, group_case
from flaxdream.data.left_out import LeftOut
from flaxdream.data.near_duplicates import FLAT, alike
from flaxdream.data.picture_set import PictureSet

if TYPE_CHECKING:
    from jaxtyping import Float

UNREADABLE: Mapping[str, str] = {
    "empty files": "Download or export again, or delete.",
    "broken links": "Put back what they lead to, or delete them.",
}
MOST_CROPPED = 0.5  # of its area a picture may lose before it is named


def left_out_findings(left_out: LeftOut) -> Iterator[Finding]:
    """What lies among the pictures and is none."""
    for reason, count in left_out.counts.items():
        level: Level = "error" if reason in UNREADABLE else "note"
        advice = UNREADABLE.get(reason, "Left out.")
        title = f"{count:,} {reason if count > 1 else reason.removesuffix('s')}"
        yield Finding("left_out", level, title, advice, tuple(Case((name,)) for name in left_out.names[reason]))


def broken_pictures(pictures: PictureSet, seen: Examined) -> Iterator[Finding]:
    """Files that no decoder gets to the end of."""
    if seen.broken:
        yield Finding(
            "broken",
            "error",
            f"{counted(len(seen.broken), 'picture')} that cannot be read",
            "Replace or delete: training stops here unless --skip_broken_images is given.",
            cases_of(pictures, list(seen.broken), list(seen.broken.values())),
        )


def copies(pictures: PictureSet, seen: Examined) -> Iterator[Finding]:
    """Files with the same bytes, and pictures that look the same; of exact copies one stands for all."""
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for index in seen.readable.tolist():
        by_digest[seen.digests[index]].append(index)
    exact = [group for group in by_digest.values() if len(group) > 1]
    if exact:
        more = sum(map(len, exact)) - len(exact)
        yield Finding(
            "copies",
            "warning",
            "1 exact copy of another picture" if more == 1 else f"{more:,} exact copies of other pictures",
            "Keep one of each: the others make it count several times.",
            tuple(group_case(pictures, group) for group in exact),
        )
    single = np.array([group[0] for group in by_digest.values()], np.int64)
    groups = [single[group] for group in alike(seen.hashes[single], seen.thumbs[single])]
    if groups:
        yield Finding(
            "alike",
            "warning",
            f"{counted(sum(map(len, groups)), 'picture')} that look alike, in {counted(len(groups), 'group')}",
            "Keep the best of each group: what is shown more often is learnt more, background and pose included.",
            tuple(group_case(pictures, group) for group in groups),
        )


def small_pictures(
    pictures: PictureSet, seen: Examined, scales: Float[np.ndarray, " n"], resolution: int
) -> Iterator[Finding]:
    """Pictures that training enlarges; `scales` over 1 do."""
    small = np.flatnonzero(scales > 1)
    if len(small):
        small = small[np.argsort(-scales[small], kind="stable")]
        sizes = seen.sizes[small]
        details = [f"{w} x {h}, enlarged {scale:.1f} times" for (h, w), scale in zip(sizes, scales[small])]
        yield Finding(
            "small",
            "warning",
            f"{counted(len(small), 'picture')} too small for --resolution {resolution}",
            "Enlarging makes them soft, and the model learns that: take larger ones, or a smaller --resolution.",
            cases_of(pictures, small.tolist(), details),
        )


def blurred_pictures(pictures: PictureSet, seen: Examined, least_sharpness: float) -> Iterator[Finding]:
    """Pictures without a sharp place, the worst first, and those that show nothing."""
    blank = _blank(seen)
    blurred = [index for index in np.flatnonzero(seen.sharpness < least_sharpness).tolist() if index not in blank]
    if blurred:
        blurred.sort(key=lambda index: float(seen.sharpness[index]))
        yield Finding(
            "blurred",
            "warning",
            f"{counted(len(blurred), 'picture')} without a sharp place at the size of training",
            "Look at the contact sheet, and replace what is blurred and not meant to be.",
            cases_of(pictures, blurred, [f"sharpness {seen.sharpness[index]:.2f}" for index in blurred]),
        )
    if blank:
        yield Finding(
            "blank",
            "warning",
            f"{counted(len(blank), 'picture')} of one colour",
            "Nothing can be learnt there: replace or delete.",
            cases_of(pictures, sorted(blank)),
        )


def _blank(seen: Examined) -> set[int]:
    deviation = seen.thumbs[seen.readable].std(axis=(1, 2), dtype=np.float32).max(axis=-1)
    return set(seen.readable[deviation < FLAT].tolist())


def cropped_pictures(
    pictures: PictureSet, cropped: Float[np.ndarray, " n"], how: str, advice: str
) -> Iterator[Finding]:
    """Pictures of which training sees less than half; `how` says by what they are cut."""
    much = np.flatnonzero(cropped > MOST_CROPPED)
    if len(much):
        much = much[np.argsort(-cropped[much], kind="stable")]
        yield Finding(
            "cropped",
            "warning",
            f"{counted(len(much), 'picture')} of which more than {MOST_CROPPED:.0%} is cut away {how}",
            advice,
            cases_of(pictures, much.tolist(), [f"{cropped[index]:.0%} cut away" for index in much]),
        )


def handled_pictures(pictures: PictureSet, seen: Examined) -> Iterator[Finding]:
    """Files that are not shown as they are stored, and what is done with them."""
    headers = [(index, header) for index, header in enumerate(seen.headers) if header is not None]
    kinds = {
        "turned": ("turned or mirrored by EXIF data", "Read upright, as viewers show it: nothing to do.",
                   [i for i, header in headers if header.orientation != 1]),
        "transparent": ("with transparency", "What is transparent becomes white; a background of your own is better.",
                        [i for i, header in headers if header.is_transparent]),
        "animated": ("with several frames or pages", "The first is taken.",
                     [i for i, header in headers if header.is_animated]),
        "cmyk": ("in CMYK", "Converted without the colour profile: look at the colours.",
                 [i for i, header in headers if header.mode == "CMYK"]),
    }  # fmt: skip
    for kind, (what, advice, indices) in kinds.items():
        if indices:
            yield Finding(
                kind, "note", f"{counted(len(indices), 'picture')} {what}", advice, cases_of(pictures, indices)
            )
