"""The transformer of the 3B generation: translates its YAML keys to the config of `models.nadit`."""

from collections.abc import Sequence
from typing import Literal

from models.nadit.config import (
    NORMS,
    NaDiTConfig,
    RopeConfig,
    read_size,
    read_windows,
    require,
    require_shared_keys,
    require_widths,
)
from models.nadit.model import NaDiT as Transformer


class NaDiT(Transformer):
    """SeedVR-3B and SeedVR2-3B: SwiGLU, rotary text, separate text weights in the first `mm_layers` blocks, a tail.

    The arguments are the keys of `dit.model` in configs_3b/main.yaml. A value that would have no effect is refused.
    `txt_in_norm` is accepted with any value, because it only affects models with several text encoders.
    """

    def __init__(
        self,
        *,
        vid_in_channels: int,
        vid_out_channels: int,
        vid_dim: int,
        txt_in_dim: int,
        txt_dim: int,
        emb_dim: int,
        heads: int,
        head_dim: int,
        expand_ratio: int,
        norm: str,
        norm_eps: float,
        ada: str,
        qk_bias: bool,
        qk_norm: str,
        patch_size: Sequence[int],
        num_layers: int,
        mm_layers: int,
        mlp_type: Literal["normal", "swiglu"],
        block_type: Sequence[str],
        window: Sequence[Sequence[int]],
        window_method: Sequence[str],
        rope_type: str,
        rope_dim: int,
        vid_out_norm: str | None = None,
        txt_in_norm: str | None = None,
        msa_type: str | None = None,
    ) -> None:
        require_shared_keys(norm=norm, qk_norm=qk_norm, ada=ada, block_type=block_type, num_layers=num_layers)
        require_widths(vid_dim=vid_dim, txt_dim=txt_dim, emb_dim=emb_dim)
        require("mlp_type", mlp_type, ["swiglu", "normal"])
        require("rope_type", rope_type, ["mmrope3d"])
        require("msa_type", msa_type, [None, "None"])
        require("vid_out_norm", vid_out_norm, [None, *sorted(NORMS)])
        require("txt_in_norm", txt_in_norm, [None, "layer", "fusedln", *sorted(NORMS)])
        if not isinstance(txt_in_dim, int):
            raise ValueError(
                f"txt_in_dim={txt_in_dim!r}: this model reads one text embedding, so one number is expected"
            )
        if rope_dim > head_dim:
            raise ValueError(f"rope_dim={rope_dim} is wider than head_dim={head_dim}")
        windows, shifted = read_windows(window, window_method, num_layers)
        super().__init__(
            NaDiTConfig(
                vid_in_channels=vid_in_channels,
                vid_out_channels=vid_out_channels,
                dim=vid_dim,
                txt_in_dim=txt_in_dim,
                heads=heads,
                head_dim=head_dim,
                expand_ratio=expand_ratio,
                norm_eps=norm_eps,
                qkv_bias=qk_bias,
                patch_size=read_size("patch_size", patch_size),
                num_layers=num_layers,
                windows=windows,
                shifted=shifted,
                separate_layers=mm_layers,
                mlp=mlp_type,
                rope=RopeConfig("text_and_video", rope_dim),
                tail=vid_out_norm is not None,
                last_block_video_only=True,
            )
        )
