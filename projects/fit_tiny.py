"""The tiny model from a few photographs and clips on a CPU, in minutes: what `ckpts/tiny/` holds.

    python projects/train_tiny.py pairs --data FOLDER... --output runs/cpu pairs.workers=1 pairs.rounds=1 \\
        'pairs.sets=[{shape: [5, 160, 240], count: 150}, {shape: [1, 160, 240], count: 300}]'
    python projects/fit_tiny.py --data FOLDER... --output runs/cpu

Two steps, both in closed form: the VAE as the best linear one, and the transformer as the best linear map of a token's
condition to its truth. `projects/train_tiny.py` with a GPU is the way to better weights.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from common.checkpoint import save_safetensors
from common.config import load_config
from common.create import create_object
from common.distributed.process import process_group
from common.logger import get_logger, set_up_logging
from data.training.index import build_index
from data.training.sampling import ClipShape
from models.nadit.model import NaDiT
from projects.video_diffusion_sr.build import build_vae
from projects.video_diffusion_sr.training.linear_start import start_linear
from projects.video_diffusion_sr.training.pair_latents import PairLatents, start_from_condition
from projects.video_diffusion_sr.training.resident import ResidentClips, ResidentConfig

logger = get_logger(__name__)

SEED, BUDGET = 2026, 4800  # latent positions of a batch: two pictures of 160x240
CLEAN = 0.05  # weight of a clean pair beside a degraded one in the linear map
QUIET = 0.2  # what the fresh gates of the branches are multiplied by


def tokens(latents: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[n positions, c] of clips of one latent size -> [tokens, 4 c], 2x2 positions each, as it cuts them."""
    t, h, w = size
    cut = latents.float().reshape(-1, t, h // 2, 2, w // 2, 2, latents.shape[-1])
    return cut.permute(0, 1, 2, 4, 3, 5, 6).reshape(-1, 4 * latents.shape[-1])


def ridge(x: Tensor, y: Tensor, penalty: float, weights: Tensor | None = None) -> Tensor:
    """The linear map with offset, [features + 1, targets], from x to y with the least (weighted) squared error."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
    weighted = x if weights is None else x * weights[:, None]
    normal = weighted.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(normal, weighted.T @ y.double()).float()


@torch.no_grad()
def start_from_linear_map(dit: NaDiT, source: PairLatents, scale: float) -> None:
    """v = x_t - M condition - offset, M the best over all pairs, degraded and clean alike."""
    pairs = [(size, hq, lq) for size, chunks in source.latents.items() for hq, lq in chunks]
    hq = torch.cat([tokens(hq * scale, size) for size, hq, _ in pairs])
    lq = torch.cat([tokens(lq * scale, size) for size, _, lq in pairs])
    # A good picture must pass unchanged: without such pairs the map is free to blow up detail that a x4 enlarged
    # picture never has, and it does.
    fitted = ridge(torch.cat([lq, hq]), torch.cat([hq, hq]), 1e-4, torch.tensor([1.0] * len(lq) + [CLEAN] * len(hq)))
    start_from_condition(dit, hq.shape[1] // 4)
    channels = hq.shape[1] // 4
    into = dit.vid_in.proj.weight[: hq.shape[1]].view(hq.shape[1], 4, -1)
    into[:, :, channels : 2 * channels] = -fitted[:-1].T.reshape(-1, 4, channels)
    dit.vid_in.proj.bias[: hq.shape[1]] = -fitted[-1]
    for name, parameter in dit.named_parameters():
        if name.endswith("_gate"):
            parameter.mul_(QUIET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    set_up_logging()
    torch.manual_seed(SEED)
    config, out = "configs_tiny/main.yaml", args.output
    vae = create_object(load_config(config).vae.model)
    clips = ResidentConfig(ClipShape(9, 128, 128), clips=64, soft_share=0.1, image_share=0.6)
    start_linear(vae, ResidentClips(build_index(args.data), clips, SEED, "cpu").batch(0).clips[0])
    save_safetensors(vae.state_dict(), out / "vae.safetensors")
    with process_group("cpu") as process:
        folded = build_vae(load_config(config).vae, out / "vae.safetensors", process.device, torch.float32)
        source = PairLatents(folded, BUDGET, SEED)
        source.refresh(out / "pairs")
        scale = 1 / source.spread()
        logger.info("scaling_factor: %.4f", scale)
        recipe = create_object(load_config(config, [f"vae.scaling_factor={scale:.4f}"]))
        dit, _ = recipe.build_dit()
        start_from_linear_map(dit, source, scale)
        half = {name: value if name.endswith("freqs") else value.half() for name, value in dit.state_dict().items()}
        save_safetensors(half, out / "dit.safetensors")


if __name__ == "__main__":
    main()
