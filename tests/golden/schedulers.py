"""Schedulers: noise tables, single DDPM steps, trajectories with the model's answers, pipelines."""

import json
from functools import partial

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)

from common import ROOT, case, save_json, save_tensors, seed

STABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
OFFSET = dict(STABLE, steps_offset=1)
SHAPE = (1, 4, 2, 2)



# The files of the published models.
SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def make_tables() -> None:
    tensors = {}
    for kind in ("scaled_linear", "linear"):
        scheduler = DDPMScheduler(**{**STABLE, "beta_schedule": kind})
        tensors[f"betas.{kind}"] = scheduler.betas
        tensors[f"alphas_cumprod.{kind}"] = scheduler.alphas_cumprod
    save_tensors("scheduler/tables.safetensors", tensors)
    case("noise-table", "tables", golden="scheduler/tables.safetensors")


def make_ddpm() -> None:
    for prediction in ("epsilon", "v_prediction"):
        name = f"ddpm-{prediction}"
        seed("scheduler/" + name)
        scheduler = DDPMScheduler(
            **STABLE, variance_type="fixed_small", clip_sample=False, prediction_type=prediction
        )
        timesteps = [0, 1, 2, 5, 50, 400, 900, 999]
        clean, noise, answer = (torch.randn(len(timesteps), 4, 4, 4) for _ in range(3))
        added = scheduler.add_noise(clean, noise, torch.tensor(timesteps))
        velocity = scheduler.get_velocity(clean, noise, torch.tensor(timesteps))
        drawn, previous, guess, variance = [], [], [], []
        for i, t in enumerate(timesteps):
            # The scheduler draws its own noise: the same generator gives it to the file.
            z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(i))
            out = scheduler.step(
                answer[i : i + 1], t, added[i : i + 1], generator=torch.Generator().manual_seed(i)
            )
            drawn.append(z)
            previous.append(out.prev_sample)
            guess.append(out.pred_original_sample)
            variance.append(scheduler._get_variance(t))
        folder = f"scheduler/{name}"
        scheduler.save_config(ROOT / folder)
        save_tensors(
            f"{folder}/golden.safetensors",
            {
                "timestep": torch.tensor(timesteps, dtype=torch.int32),
                "clean": clean,
                "noise": noise,
                "noisy": added,
                "velocity": velocity,
                "model_output": answer,
                "z": torch.cat(drawn),
                "previous": torch.cat(previous),
                "predicted_clean": torch.cat(guess),
                "variance": torch.stack(variance),
            },
        )
        case("ddpm", name, model=folder, golden=f"{folder}/golden.safetensors")


def trajectories() -> list[tuple]:
    """(case, the class that runs, its configuration or a published file of another's, steps)"""
    ddim = dict(OFFSET, clip_sample=False, set_alpha_to_one=False)
    pndm = dict(OFFSET, skip_prk_steps=True, set_alpha_to_one=False)
    runs = []
    for spacing in ("leading", "trailing"):
        for prediction in ("epsilon", "v_prediction"):
            for steps in (12, 50):
                config = dict(ddim, timestep_spacing=spacing, prediction_type=prediction)
                runs.append((f"ddim-{spacing}-{prediction}-{steps}", DDIMScheduler, config, steps))
    runs += [
        ("ddim-alpha-one-12", DDIMScheduler, dict(ddim, set_alpha_to_one=True, steps_offset=0), 12),
        ("ddim-linspace-9", DDIMScheduler, dict(ddim, timestep_spacing="linspace"), 9),
        ("ddim-sample-6", DDIMScheduler, dict(ddim, prediction_type="sample"), 6),
        ("ddim-clipped-6", DDIMScheduler, dict(ddim, clip_sample=True, clip_sample_range=0.5), 6),
        # NumPy rounds one of these timesteps from half-way.
        ("ddim-trailing-48", DDIMScheduler, dict(ddim, timestep_spacing="trailing"), 48),
        ("ddpm-8", DDPMScheduler, dict(STABLE, clip_sample=False), 8),
        ("ddpm-clipped-6", DDPMScheduler, dict(STABLE, clip_sample=True, steps_offset=1), 6),
        (
            "ddpm-fixed-large-7",
            DDPMScheduler,
            dict(
                STABLE,
                clip_sample=False,
                variance_type="fixed_large",
                timestep_spacing="trailing",
                prediction_type="v_prediction",
            ),
            7,
        ),
        ("pndm-12", PNDMScheduler, pndm, 12),
        ("pndm-sd15-50", PNDMScheduler, SD15, 50),
        ("pndm-v_prediction-7", PNDMScheduler, dict(pndm, prediction_type="v_prediction"), 7),
        ("pndm-trailing-9", PNDMScheduler, dict(pndm, timestep_spacing="trailing"), 9),
        (
            "pndm-linspace-alpha-one-7",
            PNDMScheduler,
            dict(pndm, timestep_spacing="linspace", set_alpha_to_one=True),
            7,
        ),
    ]
    runs += [(f"pndm-{steps}", PNDMScheduler, pndm, steps) for steps in (1, 2, 3, 4)]

    euler = lambda **config: dict(OFFSET, **config)
    runs += [
        (f"euler-{name}", EulerDiscreteScheduler, config, int(name.split("-")[-1]))
        for name, config in {
            "leading-12": euler(timestep_spacing="leading"),
            "trailing-12": euler(timestep_spacing="trailing"),
            "sdxl-30": SDXL,
            "linspace-10": euler(timestep_spacing="linspace"),
            "linspace-1": euler(timestep_spacing="linspace"),
            "leading-1": euler(timestep_spacing="leading"),
            "karras-14": euler(timestep_spacing="leading", use_karras_sigmas=True),
            "karras-limits-8": euler(use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0),
            "v_prediction-8": euler(timestep_spacing="trailing", prediction_type="v_prediction"),
            "sample-6": euler(timestep_spacing="leading", prediction_type="sample"),
            "sigma-min-6": euler(timestep_spacing="leading", final_sigmas_type="sigma_min"),
        }.items()
    ]

    solver = lambda **config: dict(OFFSET, algorithm_type="dpmsolver++", **config)
    runs += [
        (f"dpm-solver-{name}", DPMSolverMultistepScheduler, config, int(name.split("-")[-1]))
        for name, config in {
            "12": solver(timestep_spacing="leading"),
            "karras-12": dict(STABLE, algorithm_type="dpmsolver++", use_karras_sigmas=True),
            # One of these timesteps lies within a thousandth of half-way between two.
            "karras-18": solver(use_karras_sigmas=True),
            "karras-25": solver(timestep_spacing="leading", use_karras_sigmas=True),
            "leading-20": solver(timestep_spacing="leading"),
            "trailing-20": solver(timestep_spacing="trailing"),
            "linspace-14": solver(timestep_spacing="linspace"),
            "linspace-15": solver(timestep_spacing="linspace"),
            "v_prediction-5": solver(timestep_spacing="trailing", prediction_type="v_prediction"),
            "sample-5": solver(timestep_spacing="leading", prediction_type="sample"),
            "sigma-min-14": solver(final_sigmas_type="sigma_min"),
            "sigma-min-15": solver(final_sigmas_type="sigma_min"),
            "sigma-min-euler-15": solver(final_sigmas_type="sigma_min", euler_at_final=True),
            "sigma-min-always-7": solver(final_sigmas_type="sigma_min", lower_order_final=False),
            "first-order-6": solver(solver_order=1),
            "1": solver(timestep_spacing="leading"),
            "2": solver(timestep_spacing="trailing"),
        }.items()
    ]

    # Another scheduler's file, as people swap schedulers.
    runs += [
        ("sd15-as-ddim-10", DDIMScheduler, SD15, 10),
        ("sd15-as-ddpm-10", DDPMScheduler, SD15, 10),
        ("sd15-as-euler-10", EulerDiscreteScheduler, SD15, 10),
        ("sd15-as-dpm-solver-10", DPMSolverMultistepScheduler, SD15, 10),
        ("sdxl-as-ddim-10", DDIMScheduler, SDXL, 10),
        ("sdxl-as-pndm-10", PNDMScheduler, SDXL, 10),
        ("sdxl-as-dpm-solver-10", DPMSolverMultistepScheduler, SDXL, 10),
        (
            "unipc-as-dpm-solver-10",
            DPMSolverMultistepScheduler,
            json.loads(UniPCMultistepScheduler(**OFFSET).to_json_string()),
            10,
        ),
    ]
    return runs


def make_trajectories() -> None:
    for name, kind, config, steps in trajectories():
        seed("scheduler/" + name)
        scheduler = kind.from_config(config)
        scheduler.set_timesteps(steps)
        sample = torch.randn(SHAPE) * scheduler.init_noise_sigma
        samples, scaled, answers, drawn = [sample], [], [], []
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.scale_model_input(sample, t)
            # Any smooth answer will do: the file holds it.
            answer = torch.tanh(x + torch.sin(t.float() / 100))
            step = scheduler.step
            if kind is DDPMScheduler:
                # The scheduler draws its own noise: the same generator gives it to the file.
                drawn.append(torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)))
                step = partial(step, generator=torch.Generator().manual_seed(i))
            sample = step(answer, t, sample).prev_sample
            samples.append(sample)
            scaled.append(x)
            answers.append(answer)
        tensors = {
            "timesteps": scheduler.timesteps.float(),
            "samples": torch.stack(samples),
            "model_inputs": torch.stack(scaled),
            "model_outputs": torch.stack(answers),
            "initial_sigma": torch.tensor([float(scheduler.init_noise_sigma)]),
        }
        if hasattr(scheduler, "sigmas"):
            tensors["sigmas"] = scheduler.sigmas
        if drawn:
            tensors["z"] = torch.stack(drawn)
        folder = f"scheduler/{name}"
        if "_class_name" in config:
            save_json(f"{folder}/scheduler_config.json", config)
        else:
            scheduler.save_config(ROOT / folder)
        save_tensors(f"{folder}/golden.safetensors", tensors)
        case(
            "trajectory",
            name,
            model=folder,
            golden=f"{folder}/golden.safetensors",
            scheduler=kind.__name__,
            steps=steps,
        )


def make_pipelines() -> None:
    """What diffusers' whole loop gives: a small U-Net, guidance, prompts that are given encoded."""
    parts = dict(vae=None, text_encoder=None, tokenizer=None)
    for layout, published, kinds in (
        ("sd15", SD15, [None, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler]),
        ("sdxl", SDXL, [None]),
    ):
        unet = UNet2DConditionModel.from_pretrained(ROOT / "unet" / layout).float()
        for kind in kinds:
            kind = kind or getattr(diffusers, published["_class_name"])
            name = f"{layout}-{kind.__name__}"
            seed("pipeline/" + name)
            scheduler = kind.from_config(published)
            if layout == "sd15":
                pipeline = StableDiffusionPipeline(
                    **parts,
                    unet=unet,
                    scheduler=scheduler,
                    safety_checker=None,
                    feature_extractor=None,
                    requires_safety_checker=False,
                )
            else:
                pipeline = StableDiffusionXLPipeline(
                    **parts, text_encoder_2=None, tokenizer_2=None, unet=unet, scheduler=scheduler
                )
            pipeline.set_progress_bar_config(disable=True)
            count, length, steps = 2, 5, 6
            width = unet.config.cross_attention_dim
            noise = torch.randn(count, 4, 4, 4)
            inputs = {
                "prompt_embeds": torch.randn(count, length, width),
                "negative_prompt_embeds": torch.randn(count, length, width),
            }
            if layout == "sdxl":
                pooled = unet.config.projection_class_embeddings_input_dim
                pooled -= 6 * unet.config.addition_time_embed_dim
                inputs["pooled_prompt_embeds"] = torch.randn(count, pooled)
                inputs["negative_pooled_prompt_embeds"] = torch.randn(count, pooled)
            latents = pipeline(
                **inputs,
                latents=noise,
                height=32,
                width=32,
                num_inference_steps=steps,
                guidance_scale=3.0,
                output_type="latent",
                generator=torch.Generator().manual_seed(1),
            ).images
            tensors = {"noise": noise, "latents": latents, **inputs}
            if kind is DDPMScheduler:
                generator = torch.Generator().manual_seed(1)
                tensors |= {
                    f"z.{i}": torch.randn(noise.shape, generator=generator) for i in range(steps)
                }
            golden = f"scheduler/pipeline/{name}.safetensors"
            save_tensors(golden, tensors)
            case(
                "pipeline",
                name,
                model=f"unet/{layout}",
                golden=golden,
                scheduler=kind.__name__,
                config=published,
                steps=steps,
                guidance=3.0,
            )


def make() -> None:
    make_tables()
    make_ddpm()
    make_trajectories()
    make_pipelines()
