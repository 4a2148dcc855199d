"""The six preference losses, each perceptual one for every choice of features, with gradients.

Everything is computed twice: in f64, which is what the files hold (rounded to f32), and in f32, whose
distance from it is `f32_error` in the manifest: the tolerance that a test can ask for.
"""

import numpy
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline

from common import ROOT, case, save_tensors, seed
from loras import ATTENTION, adapter, add_lora, lora_gradients
from unets import build, features

TIMESTEPS = [1, 5, 120, 500, 999]
# Chosen for logits of order 1, by error space and loss.
BETAS = {"dpo": 100.0, "cpo": 40.0, "dpo-tw": 2e5, "ncp-dpo": 5e5, "ncp-cpo": 2e4}
LAMBDA = 0.1
KNOTS = [1, 5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999]
RATIOS = [
    1.26e-3, 5.4e-4, 2.15e-4, 1.3e-4, 1.28e-4, 1.67e-4, 2.13e-4,
    3.43e-4, 6.2e-4, 1.18e-3, 2.17e-3, 2.3e-3, 1.5e-3, 1e-3,
]  # fmt: skip
FEATURES = [
    "down",
    "mid",
    "levels",
    "residuals-concatenated",
    "residuals-normalised",
    "released-concatenated",
    "released-normalised",
]


def split_levels(found: dict, blocks: list[int]) -> tuple[list, list]:
    """All residuals, and what the released code collects: conv_in, each block's output, the middle."""
    residuals = [found[f"residual.{i}"] for i in range(len(found) - 3)]
    released = [residuals[0]] + [residuals[i] for i in blocks] + [found["mid"]]
    return residuals, released


def perceptual_errors(a: dict, b: dict, choice: str) -> torch.Tensor:
    """Squared feature differences per image [N]: `a` is differentiated, `b` is the target."""

    def mean(x, y):
        return (x - y).square().flatten(1).mean(1)

    def concatenated(xs, ys, normal):
        # The level's reshaped channel count is its size over the pixels of the reference level, so
        # "reference channels / channel count" is the ratio of the two sizes.
        scales = [normal / x[0].numel() if normal else 1.0 for x in xs]
        return mean(
            torch.cat([s * x.flatten(1) for s, x in zip(scales, xs)], 1),
            torch.cat([s * y.flatten(1) for s, y in zip(scales, ys)], 1),
        )

    if choice == "down":
        return mean(a["last"], b["last"])
    if choice == "mid":
        return mean(a["mid"], b["mid"])
    # conv_in 0, block 0 gives 1 and its downsampled 2, block 1 gives 3.
    residuals_a, released_a = split_levels(a, [2, 3])
    residuals_b, released_b = split_levels(b, [2, 3])
    if choice == "levels":
        return torch.stack([mean(x, y) for x, y in zip(residuals_a, residuals_b)]).mean(0)
    kind, how = choice.split("-")
    xs, ys = (residuals_a, residuals_b) if kind == "residuals" else (released_a, released_b)
    reference = a["last"] if kind == "residuals" else a["mid"]
    return concatenated(xs, ys, reference[0].numel() if how == "normalised" else None)


class Step:
    """Noising and the DDPM reverse step, from an f64 scaled-linear table."""

    def __init__(self, t: torch.Tensor, dtype):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        bars = torch.cumprod(1 - betas, 0)
        bar, previous, beta = bars[t], bars[t - 1], betas[t]
        shape = (-1, 1, 1, 1)
        self.signal = bar.sqrt().to(dtype).view(shape)
        self.noise = (1 - bar).sqrt().to(dtype).view(shape)
        self.pull = (beta / (1 - bar).sqrt()).to(dtype).view(shape)
        self.grow = (1 / (1 - beta).sqrt()).to(dtype).view(shape)
        self.sigma = ((1 - previous) / (1 - bar) * beta).sqrt().to(dtype).view(shape)

    def noisy(self, x, eps):
        return self.signal * x + self.noise * eps

    def previous(self, x_t, eps, z):
        return (x_t - self.pull * eps) * self.grow + self.sigma * z


def compute(unet, frozen, inputs: dict, method: str, choice: str | None, dtype) -> dict:
    """One loss with everything that a test may want to look at."""
    unet, frozen = unet.to(dtype), frozen.to(dtype)
    x = {k: v.to(dtype) for k, v in inputs.items() if k != "timestep"}
    t = inputs["timestep"].long()
    step = Step(t, dtype)

    def error(side: str) -> torch.Tensor:
        x_t = step.noisy(x[f"x_{side}"], x["eps"])
        predicted = unet(x_t, t.to(dtype), x["context"]).sample
        if choice is None:
            return (x["eps"] - predicted).square().flatten(1).mean(1)

        def f(eps):
            return features(
                frozen, step.previous(x_t, eps, x[f"z_{side}"]), (t - 1).to(dtype), x["context"]
            )

        return perceptual_errors(f(predicted), f(x["eps"]), choice)

    def reference(side: str) -> torch.Tensor:
        unet.disable_adapters()
        with torch.no_grad():
            found = error(side)
        unet.enable_adapters()
        return found

    for p in unet.parameters():
        p.grad = None
    weight, beta = torch.ones_like(x["eps"][:, 0, 0, 0]), BETAS.get(method)
    kind = method.removeprefix("ncp-")
    if method == "dpo-tw":
        log_ratio = numpy.interp(t.numpy(), KNOTS, numpy.log(RATIOS))
        weight, kind = torch.from_numpy(numpy.exp(log_ratio)).to(dtype), "dpo"
    out = {"error_theta_w": weight * error("w")}
    if kind == "sft":
        loss = out["error_theta_w"].mean()
    else:
        out["error_theta_l"] = weight * error("l")
        margin = out["error_theta_w"] - out["error_theta_l"]
        penalty = LAMBDA * beta * out["error_theta_w"]
        if kind == "dpo":
            out["error_ref_w"] = weight * reference("w")
            out["error_ref_l"] = weight * reference("l")
            margin = margin - (out["error_ref_w"] - out["error_ref_l"])
            penalty = torch.zeros_like(penalty)
        out["logits"] = -beta * margin
        loss = (-F.logsigmoid(out["logits"]) + penalty).mean()
    loss.backward()
    out["loss"] = loss.view(1)
    out.update({f"grad.unet.{k}": v for k, v in lora_gradients(unet, True).items()})
    return {k: v.detach().clone() for k, v in out.items()}


def distance(narrow: dict, wide: dict, select) -> float:
    """Largest difference over the largest value, over all selected tensors together."""
    names = [k for k in wide if select(k)]
    top = max(wide[k].abs().max().item() for k in names)
    return max((narrow[k].double() - wide[k]).abs().max().item() for k in names) / top


def make() -> None:
    seed("objectives")
    unet, frozen = build("objectives"), build("objectives")
    seed("objectives/lora")
    add_lora(unet, 4, ATTENTION)
    StableDiffusionPipeline.save_lora_weights(ROOT / "objectives", unet_lora_layers=adapter(unet))
    n = len(TIMESTEPS)
    inputs = {
        "x_w": torch.randn(n, 4, 8, 8),
        "x_l": torch.randn(n, 4, 8, 8),
        "eps": torch.randn(n, 4, 8, 8),
        "z_w": torch.randn(n, 4, 8, 8),
        "z_l": torch.randn(n, 4, 8, 8),
        "context": torch.randn(n, 6, 16),
        "timestep": torch.tensor(TIMESTEPS).float(),
    }
    step = Step(torch.tensor(TIMESTEPS), torch.float64)
    between = {}
    for side in "wl":
        noisy = step.noisy(inputs[f"x_{side}"].double(), inputs["eps"].double())
        between[f"noisy_{side}"] = noisy.float()
        between[f"previous_{side}"] = step.previous(
            noisy, inputs["eps"].double(), inputs[f"z_{side}"].double()
        ).float()
    save_tensors("objectives/inputs.safetensors", {**inputs, **between})

    runs = [(m, None) for m in ("sft", "dpo", "cpo", "dpo-tw")]
    runs += [(m, c) for c in FEATURES[:3] for m in ("ncp-sft", "ncp-dpo", "ncp-cpo")]
    runs += [("ncp-dpo", c) for c in FEATURES[3:]]
    for method, choice in runs:
        name = method if choice is None else f"{method}-{choice}"
        wide = compute(unet, frozen, inputs, method, choice, torch.float64)
        narrow = compute(unet, frozen, inputs, method, choice, torch.float32)
        path = f"objectives/{name}.safetensors"
        save_tensors(path, {k: v.float() for k, v in wide.items()})
        errors = {
            "loss": distance(narrow, wide, lambda k: k == "loss"),
            "errors": distance(narrow, wide, lambda k: k.startswith("error_")),
            "gradients": distance(narrow, wide, lambda k: k.startswith("grad.")),
        }
        logits = wide.get("logits")
        print(
            f"  {name}: loss {wide['loss'].item():.4g}, logits "
            f"{[] if logits is None else [round(v, 3) for v in logits.tolist()]}, f32 off by "
            + ", ".join(f"{v:.0e}" for v in errors.values())
        )
        case(
            "objective",
            name,
            model="unet/objectives",
            lora="objectives/pytorch_lora_weights.safetensors",
            inputs="objectives/inputs.safetensors",
            golden=path,
            method=method,
            features=choice,
            beta=BETAS.get(method),
            **{"lambda": LAMBDA if method.endswith("cpo") else None},
            f32_error=errors,
        )
