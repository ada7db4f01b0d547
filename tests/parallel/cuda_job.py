"""A job for torchrun on CUDA: ranks that share the GPUs there are compute what one computes alone."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.distributed.collectives import make_group
from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from common.distributed.row_parallel import UnshardedClip
from common.distributed.sharded_inference import load_sharded
from models.video_vae_v3.modules.schedule import Schedule
from tests.conftest import seeded
from tests.parallel.test_equality import CLIPS, DOORS, LEVELS, META, build_dits, build_vae, dit_inputs, restored

TOLERANCE = 1e-4  # float32, but other matrix sizes take other kernels


def check_transformer(parallel: Parallel, device: torch.device) -> None:
    for name, model in build_dits().items():
        model.to(device)
        for case in ("clip", "image"):
            given = {k: v.to(device) if torch.is_tensor(v) else v for k, v in dit_inputs(model, case).items()}
            alone = model(**given).vid_sample
            layout = model.layout(*CLIPS[case], device, parallel.sequence_group)
            worst = (model(**given, layout=layout).vid_sample - alone).abs().max()
            assert worst <= TOLERANCE, f"{name}, {case}: {worst}"


def check_sharded_weights(parallel: Parallel, device: torch.device) -> None:
    """More than once: what is gathered for a block must not overwrite what the block before still reads."""
    for name, whole in build_dits().items():
        with torch.device("meta"):
            model = DOORS[name](**META[f"dit/{name}"]["config"]).eval()
        load_sharded(model, model.blocks, whole.state_dict(), parallel.group, dtype=torch.float32)
        whole.to(device)
        given = {k: v.to(device) if torch.is_tensor(v) else v for k, v in dit_inputs(whole, "clip").items()}
        alone = whole(**given).vid_sample
        layout = model.layout(*CLIPS["clip"], device, parallel.sequence_group)
        for _ in range(5):
            worst = (model(**given, layout=layout).vid_sample - alone).abs().max()
            assert worst <= TOLERANCE, f"{name} with sharded weights: {worst}"


def check_vae(parallel: Parallel, device: torch.device) -> None:
    vae = build_vae().to(device)
    clip = seeded("parallel/cuda", (1, 3, 33, 56, 48)).clamp(-1, 1).to(device)  # rows that ranks cannot share evenly
    for levels in LEVELS.values():
        schedule = Schedule(8, levels)
        alone = restored(vae, clip, schedule, UnshardedClip())
        got = restored(vae, clip, schedule, parallel.rows(clip.shape[3] // vae.spatial_factor))
        assert (got is not None) == parallel.is_leader
        if parallel.is_leader:
            assert (got - alone).abs().max() <= TOLERANCE


def check_collectives(process) -> None:
    """Through the backend itself, also in a group of one."""
    group = make_group(process, process.world)
    rows = torch.arange(6.0, device=process.device).view(3, 2) + 10 * process.rank
    assert torch.equal(group.gather_rows(rows, [3] * group.size, "test")[:3], rows - 10 * process.rank)
    assert torch.equal(
        group.total(torch.ones(2, device=process.device), "test").cpu(), torch.full((2,), float(group.size))
    )
    sent = [3, *[0] * (group.size - 1)]
    received = [3] * group.size if group.rank == 0 else [0] * group.size
    assert len(group.exchange(rows, sent, received, "test")) == sum(received)
    assert int(group.broadcast(torch.tensor(7, device=process.device), 0, "test")) == 7


@torch.no_grad()
def main() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with process_group("cuda", timeout_s=120) as process:
        parallel = Parallel(process, process.world)
        check_collectives(process)
        check_transformer(parallel, process.device)
        if parallel.size > 1:
            check_sharded_weights(parallel, process.device)
        check_vae(parallel, process.device)
        if parallel.is_leader:
            sent = ", ".join(f"{name} {count}" for name, count in parallel.traffic.sent.items())
            sys.stdout.write(
                f"equal on {process.world} with {process.backend} on {process.device}; bytes sent: {sent}\n"
            )


if __name__ == "__main__":
    main()
