"""The report on a set of pictures, as values that can be JSON: looked at, judged, drawn."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flaxdream.cli.dataset_prompts import prompt_facts, prompt_findings, read_texts, tokenizer_of
from flaxdream.config.dataset import DatasetCheckConfig
from flaxdream.data.buckets import BucketPlan, Limits, bucket_table, plan_buckets, plan_text
from flaxdream.data.caption_checks import lost_captions, missing_captions
from flaxdream.data.crop_checks import Cuts, bucket_cuts, square_cuts
from flaxdream.data.doctor_sheets import crop_sheet, problem_sheet
from flaxdream.data.examined import Examined, examine
from flaxdream.data.findings import LEVELS, Finding, cases_of, counted, name_of
from flaxdream.data.folder_captions import FolderCaptions
from flaxdream.data.folder_set import FolderSet
from flaxdream.data.images import write_png
from flaxdream.data.left_out import LeftOut
from flaxdream.data.picture_checks import (
    blurred_pictures,
    broken_pictures,
    copies,
    cropped_pictures,
    handled_pictures,
    left_out_findings,
    small_pictures,
)
from flaxdream.data.picture_facts import picture_facts
from flaxdream.data.picture_set import PictureSet, drawn_samples
from flaxdream.data.prompted_folder import PromptedFolder
from flaxdream.data.sources import open_pictures


def check(config: DatasetCheckConfig) -> dict[str, Any]:
    """Reads every picture and says all there is to say; writes the contact sheets where a folder is named."""
    tokenizer = tokenizer_of(config)
    whole = _opened(config)
    pictures = drawn_samples(whole, config.max_train_samples, config.seed)
    texts = read_texts(pictures, tokenizer)
    with tqdm(total=len(pictures), desc="pictures", disable=None, leave=False, dynamic_ncols=True) as bar:
        workers = config.dataloader_num_workers or os.cpu_count() or 1
        seen = examine(pictures, config.resolution, num_workers=workers, progress=bar.update)
    plan = _plan(config, seen)
    if plan is not None and config.use_aspect_ratio_bucket:
        cuts = bucket_cuts(seen.sizes, plan)
    else:
        cuts = square_cuts(seen.sizes, config.resolution)
    findings = [*_picture_findings(config, whole, pictures, seen, plan, cuts)]
    findings += [*_caption_findings(config, whole, pictures), *prompt_findings(config, tokenizer, pictures, texts)]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    return {
        "name": pictures.name,
        "resolution": config.resolution,
        "pictures": len(pictures),
        "errors": counts["error"],
        "warnings": counts["warning"],
        "exit_code": int(counts["error"] > 0),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "facts": picture_facts(seen),
        "captions": texts.facts(),
        "prompts": prompt_facts(config, tokenizer, texts),
        "crops": _crop_facts(config, pictures, seen, plan, cuts),
        "sheets": _sheets(config, pictures, seen, findings, cuts),
    }


def _opened(config: DatasetCheckConfig) -> PictureSet:
    """All pictures, those without a caption too: with the empty one."""
    if config.instance_prompt is not None:
        return PromptedFolder(config.instance_data_dir or config.train_data_dir or "", config.instance_prompt)
    return open_pictures(
        config.dataset_name,
        config.dataset_config_name,
        config.train_data_dir,
        split=config.dataset_split,
        image_column=config.image_column,
        caption_column=config.caption_column,
        cache_dir=config.cache_dir,
        captions=config.captions,
        caption_per_line=config.caption_per_line,
        missing_caption="empty",
        token=config.hub_token,
    )


def _plan(config: DatasetCheckConfig, seen: Examined) -> BucketPlan | None:
    """None where there can be none: nothing can be read, or the resolution does not divide."""
    if not len(seen.readable) or config.resolution % config.bucket_divisor:
        return None
    table = bucket_table(config.bucket_table, config.resolution, config.bucket_divisor)
    limits = Limits(config.bucket_most_cropped, config.bucket_most_upscaled, config.bucket_fewest_pictures)
    return plan_buckets(seen.sizes, table, limits)


def _picture_findings(
    config: DatasetCheckConfig,
    whole: PictureSet,
    pictures: PictureSet,
    seen: Examined,
    plan: BucketPlan | None,
    cuts: Cuts,
) -> Iterator[Finding]:
    yield from broken_pictures(pictures, seen)
    left_out = getattr(whole, "left_out", None)
    if isinstance(left_out, LeftOut):
        yield from left_out_findings(left_out)
    yield from copies(pictures, seen)
    yield from small_pictures(pictures, seen, cuts.scales, config.resolution)
    yield from blurred_pictures(pictures, seen, config.least_sharpness)
    if config.use_aspect_ratio_bucket:
        advice = "No bucket has this shape: cut by hand, or leave out with --bucket_most_cropped 0.5."
        yield from cropped_pictures(pictures, cuts.cropped, "to fit their bucket", advice)
        for reason, indices in (plan.left_out if plan else {}).items():
            if reason != "that cannot be read":
                title = f"{counted(len(indices), 'picture')} {reason}"
                advice = "Left out, as --bucket_most_cropped or --bucket_most_upscaled asks."
                yield Finding("left_out_by_buckets", "note", title, advice, cases_of(pictures, indices.tolist()))
    else:
        advice = "Cut by hand, or train with --use_aspect_ratio_bucket."
        yield from cropped_pictures(pictures, cuts.cropped, "to make a square", advice)
    yield from handled_pictures(pictures, seen)


def _caption_findings(config: DatasetCheckConfig, whole: PictureSet, pictures: PictureSet) -> Iterator[Finding]:
    if isinstance(whole, PromptedFolder):
        return
    source = None
    if isinstance(whole, FolderSet):
        source = FolderCaptions(Path(whole.name), config.captions, config.caption_column, config.caption_per_line)
    yield from missing_captions(pictures, config.missing_caption, source)
    yield from lost_captions(whole, config.captions, config.caption_column)


def _crop_facts(
    config: DatasetCheckConfig, pictures: PictureSet, seen: Examined, plan: BucketPlan | None, cuts: Cuts
) -> dict[str, Any]:
    squares = square_cuts(seen.sizes, config.resolution)
    if not len(squares.trained):
        return {}
    worst = int(squares.cropped.argmax())
    return {
        "square": {
            "cropped_mean": round(squares.mean_cropped, 4),
            "cropped_most": round(float(squares.cropped[worst]), 4),
            "most_cropped": name_of(pictures, worst),
        },
        "bucket_table": config.bucket_table,
        "train_batch_size": config.train_batch_size,
        "buckets": [dataclasses.asdict(use) for use in plan.buckets] if plan else None,
        "text": plan_text(plan, config.train_batch_size) if plan else None,
        "why_no_buckets": None
        if plan
        else f"--resolution {config.resolution} is no multiple of {config.bucket_divisor}",
    }


def _sheets(
    config: DatasetCheckConfig, pictures: PictureSet, seen: Examined, findings: list[Finding], cuts: Cuts
) -> list[str]:
    """Writes them, and returns their paths."""
    if config.output_dir is None:
        return []
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    sheets = {
        "problems.png": problem_sheet(pictures, seen, findings, config.resolution),
        "crops.png": crop_sheet(pictures, cuts),
    }
    for name, pixels in sheets.items():
        if pixels is None:
            (folder / name).unlink(missing_ok=True)  # that of an earlier look is no longer true
        else:
            write_png(folder / name, pixels, {})
            written.append(str(folder / name))
    return written
