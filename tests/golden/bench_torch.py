"""PyTorch's side of `deno task bench`: one JSON row per kernel, and one nano NCP-DPO step.

    python bench_torch.py [--threads N] [--seconds S] [--only WORD]
"""

import argparse
import copy
import json
import time

import torch
import torch.nn.functional as F


def measure(run, seconds: float) -> float:
    """The fastest of the repetitions that fit into the time, after one to warm up."""
    run()
    best, deadline, count = float("inf"), time.perf_counter() + seconds, 0
    while count < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best


def kernels():
    """(name, shape, floating-point operations, function)."""
    for m, k, n, name in (
        (512, 512, 512, "gemm"),
        (1024, 1024, 1024, "gemm"),
        (4096, 1024, 64, "gemm-skinny"),
        (4096, 64, 1024, "gemm-skinny"),
    ):
        a, b = torch.randn(m, k), torch.randn(k, n)
        out = torch.empty(m, n)
        yield name, f"{m}x{k}x{n}", 2 * m * k * n, lambda a=a, b=b, out=out: torch.mm(a, b, out=out)
    for n, size, c in ((16, 16, 96), (8, 32, 64)):
        x = torch.randn(n, c, size, size).to(memory_format=torch.channels_last)
        w = torch.randn(c, c, 3, 3).to(memory_format=torch.channels_last)
        g = torch.randn(n, c, size, size).to(memory_format=torch.channels_last)
        flops = 2 * n * size * size * c * c * 9
        shape = f"{n}x{size}x{size}x{c}->{c}"

        def backward(mask, x=x, w=w, g=g):
            args = [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
            return torch.ops.aten.convolution_backward(g, x, w, None, *args)

        yield "conv3x3-forward", shape, flops, lambda x=x, w=w: F.conv2d(x, w, padding=1)
        yield "conv3x3-input-grad", shape, flops, lambda f=backward: f([True, False, False])
        yield "conv3x3-weight-grad", shape, flops, lambda f=backward: f([False, True, False])
    x = torch.randn(16, 64, 32, 32).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(64), torch.randn(64)
    # Counted as 12 operations an element: two sums, the affine map, and SiLU.
    yield (
        "groupnorm-silu",
        "16x32x32x64",
        12 * x.numel(),
        lambda: F.silu(F.group_norm(x, 32, weight, bias)),
    )
    q, k, v = (torch.randn(4, 8, 1024, 40) for _ in range(3))
    flops = 4 * 4 * 8 * 1024 * 1024 * 40
    yield (
        "attention",
        "4x8x1024x40",
        flops,
        lambda: F.scaled_dot_product_attention(q, k, v),
    )


def nano_step():
    """One optimiser step of NCP-DPO on the nano U-Net: 16 pairs, rank 8, the last down block."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        norm_num_groups=8,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,
        use_linear_projection=True,
    )
    unet.requires_grad_(False).to(memory_format=torch.channels_last)
    frozen = copy.deepcopy(unet)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=targets))
    trainable = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bars = torch.cumprod(1 - betas, 0)
    pairs = 16
    x0 = torch.randn(2 * pairs, 4, 16, 16)
    context = torch.randn(pairs, 16, 64).repeat(2, 1, 1)

    def f(sample, t):
        """conv_in and the down blocks."""
        h = frozen.conv_in(sample)
        emb = frozen.time_embedding(frozen.time_proj(t).to(h.dtype))
        for block in frozen.down_blocks:
            options = {"encoder_hidden_states": context} if hasattr(block, "attentions") else {}
            h, _ = block(hidden_states=h, temb=emb, **options)
        return h

    def run():
        t = torch.randint(1, 1000, (pairs,)).repeat(2)
        eps = torch.randn(pairs, 4, 16, 16).repeat(2, 1, 1, 1)
        z = torch.randn(2 * pairs, 4, 16, 16)
        bar, beta = (v[t].float().view(-1, 1, 1, 1) for v in (bars, betas))
        sigma = ((1 - bars[t - 1]) / (1 - bars[t]) * betas[t]).sqrt().float().view(-1, 1, 1, 1)
        x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * eps

        def features(predicted):
            return f((x_t - beta / (1 - bar).sqrt() * predicted) / (1 - beta).sqrt() + sigma * z, t - 1)

        with torch.no_grad():
            target = features(eps)
            unet.disable_adapters()
            reference = (features(unet(x_t, t, context).sample) - target).square().mean((1, 2, 3))
            unet.enable_adapters()
        error = (features(unet(x_t, t, context).sample) - target).square().mean((1, 2, 3))
        winner, loser = (error - reference).chunk(2)
        loss = -F.logsigmoid(-1e6 * (winner - loser)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()

    # A frozen operation's backward pass costs one forward (no weight gradients); the counter sees that.
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return "ncp-dpo-step", "16 pairs 4x16x16, nano U-Net, rank 8", counter.get_total_flops(), run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="time per row")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def row(name, shape, flops, run):
        best = measure(run, options.seconds)
        found = {
            "name": name,
            "shape": shape,
            "seconds": best,
            "gflops": flops / best / 1e9,
            "threads": options.threads,
            "torch": torch.__version__,
        }
        print(json.dumps(found), flush=True)

    with torch.inference_mode():
        for name, shape, flops, run in kernels():
            if options.only in name:
                row(name, shape, flops, run)
    if options.only in "ncp-dpo-step":
        row(*nano_step())


if __name__ == "__main__":
    main()
