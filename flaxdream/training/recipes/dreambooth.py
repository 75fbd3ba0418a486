"""DreamBooth (Ruiz et al. 2023): a subject from a few pictures, with prior preservation."""

from __future__ import annotations

import jax

from flaxdream.config import DreamBoothConfig, batch_problems, dreambooth_problems
from flaxdream.data.concept_pictures import Gathered, gather
from flaxdream.data.concepts import Concept, concept_problems, concepts_from_json, concepts_from_kohya
from flaxdream.data.dreambooth import DreamBoothRows
from flaxdream.data.folders import check_pictures
from flaxdream.training.mesh import make_mesh
from flaxdream.training.recipes import finetuned_model
from flaxdream.training.recipes.captioned_data import say
from flaxdream.training.recipes.checks import late_problems, refuse_moving_latents
from flaxdream.training.recipes.class_pictures import draw_missing, with_defaults
from flaxdream.training.recipes.denoising import Denoising
from flaxdream.training.recipes.long_captions import long_captions
from flaxdream.training.recipes.run import run, total_steps


def train_dreambooth(config: DreamBoothConfig) -> int:
    """Runs the whole training and returns the exit code: 0, or 130 and 143 when a signal stopped it.

    Raises ValueError with all problems of the settings and the data, before anything is compiled or drawn.
    """
    problems = dreambooth_problems(config) + batch_problems(config, jax.device_count())
    concepts, found = _concepts(config)
    problems += found
    gathered = gather(concepts, captions=config.caption_source, template=config.prompt_combine_template)
    problems += gathered.problems
    broken = check_pictures((picture.path for picture in gathered.pictures), num_workers=config.dataloader_num_workers)
    if broken and not config.skip_broken_images:
        problems += [f"{problem} (--skip_broken_images goes on without it)" for problem in broken]
    problems += late_problems(config, (config.class_sampler,))
    if problems:
        raise ValueError("these settings cannot be used:\n  " + "\n  ".join(problems))

    notes = list(gathered.notes) + [f"left out: {problem}" for problem in broken]
    folder = finetuned_model.model_folder(config)
    finetuned_model.open_model(config, folder)
    if config.with_prior_preservation:
        notes += draw_missing(concepts, config, folder)
    gathered = _gathered(config, concepts, [problem.path for problem in broken])
    say(notes)
    mesh = make_mesh(config.fsdp)
    source = DreamBoothRows(
        gathered.pictures,
        config.rows_per_step(jax.device_count()),
        config.seed,
        prior_loss_weight=config.prior_loss_weight if config.with_prior_preservation else None,
        repeats=config.repeats,
        concept_repeats=[concept.repeats for concept in concepts],
    )
    refuse_moving_latents(config, source)
    steps = total_steps(config, source)
    instances = sum(not picture.is_class for picture in gathered.pictures)
    say([
        f"{instances} instance pictures, {len(gathered.pictures) - instances} class pictures, {source.batch_rows} rows "
        f"a step on {jax.device_count()} x {jax.devices()[0].device_kind}, {steps} steps",
    ])  # fmt: skip
    model = finetuned_model.load(config, folder, mesh)
    say(long_captions(model.pipeline.tokenizer, ((picture.path, picture.caption) for picture in gathered.pictures)))
    return run(Denoising(config, model, source, mesh, steps))


def _concepts(config: DreamBoothConfig) -> tuple[list[Concept], list[str]]:
    """The run's concepts and what is wrong with them."""
    if config.concepts_list is not None:
        concepts, problems = concepts_from_json(config.concepts_list)
    elif config.kohya_folders and config.instance_data_dir is not None:
        concepts, problems = concepts_from_kohya(config.instance_data_dir, config.class_data_dir)
    elif config.instance_data_dir is not None:
        concepts, problems = [Concept(config.instance_data_dir, config.instance_prompt)], []
    else:
        return [], []  # the config's own check says so
    concepts = [with_defaults(concept, config) for concept in concepts]
    needs_prompt = config.caption_source in ("prompt", "prompt_and_txt")
    return concepts, problems + concept_problems(
        concepts, with_prior_preservation=config.with_prior_preservation, needs_prompt=needs_prompt
    )


def _gathered(config: DreamBoothConfig, concepts: list[Concept], leave_out: list) -> Gathered:
    gathered = gather(
        concepts,
        captions=config.caption_source,
        template=config.prompt_combine_template,
        with_prior_preservation=config.with_prior_preservation,
        num_class_images=config.num_class_images,
        leave_out=leave_out,
    )
    if gathered.problems:
        raise ValueError("\n".join(gathered.problems))
    return gathered
