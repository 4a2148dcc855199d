"""Schedulers: noise tables, single DDPM steps, and whole trajectories with the model's answers."""

import json
import math

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from common import ROOT, case, save_json, save_tensors, seed

STABLE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SHAPE = (1, 4, 4, 4)


def save_config(scheduler, folder: str) -> None:
    """As diffusers writes it, less the infinite defaults, which are not JSON."""
    scheduler.save_config(ROOT / folder)
    path = f"{folder}/scheduler_config.json"
    config = json.loads((ROOT / path).read_text())
    finite = {k: v for k, v in config.items() if v not in (math.inf, -math.inf)}
    save_json(path, finite)


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
        save_config(scheduler, folder)
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


def make_trajectories() -> None:
    stable = dict(STABLE, steps_offset=1)
    ddim = dict(stable, clip_sample=False, set_alpha_to_one=False)
    # (case, scheduler, its configuration, steps)
    runs = []
    for spacing in ("leading", "trailing"):
        for prediction in ("epsilon", "v_prediction"):
            for steps in (12, 50):
                config = dict(ddim, timestep_spacing=spacing, prediction_type=prediction)
                runs.append((f"ddim-{spacing}-{prediction}-{steps}", DDIMScheduler, config, steps))
    runs += [
        ("ddim-alpha-one-12", DDIMScheduler, dict(ddim, set_alpha_to_one=True, steps_offset=0), 12),
        ("euler-leading-12", EulerDiscreteScheduler, dict(stable, timestep_spacing="leading"), 12),
        ("euler-trailing-12", EulerDiscreteScheduler, dict(stable, timestep_spacing="trailing"), 12),
        (
            "pndm-12",
            PNDMScheduler,
            dict(stable, skip_prk_steps=True, set_alpha_to_one=False, timestep_spacing="leading"),
            12,
        ),
        (
            "dpm-solver-12",
            DPMSolverMultistepScheduler,
            dict(stable, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="leading"),
            12,
        ),
        (
            "dpm-solver-karras-12",
            DPMSolverMultistepScheduler,
            dict(STABLE, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=True),
            12,
        ),
    ]
    for name, kind, config, steps in runs:
        seed("scheduler/" + name)
        scheduler = kind(**config)
        scheduler.set_timesteps(steps)
        sample = torch.randn(SHAPE) * scheduler.init_noise_sigma
        samples, scaled, answers = [sample], [], []
        for t in scheduler.timesteps:
            x = scheduler.scale_model_input(sample, t)
            # Any smooth answer will do: the file holds it.
            answer = torch.tanh(x + torch.sin(t.float() / 100))
            sample = scheduler.step(answer, t, sample).prev_sample
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
        folder = f"scheduler/{name}"
        save_config(scheduler, folder)
        save_tensors(f"{folder}/golden.safetensors", tensors)
        case(
            "trajectory",
            name,
            model=folder,
            golden=f"{folder}/golden.safetensors",
            scheduler=kind.__name__,
            steps=steps,
        )


def make() -> None:
    make_tables()
    make_ddpm()
    make_trajectories()
