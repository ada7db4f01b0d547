"""The transformer of the 7B generation: translates its YAML keys to the config of `models.nadit`."""

from collections.abc import Sequence
from typing import Literal

from models.nadit.config import (
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
    """SeedVR-7B and SeedVR2-7B: GELU, rotary embedding of video only, separate text weights in every block, no tail.

    The arguments are the keys of `dit.model` in configs_7b/main.yaml. A value that would have no effect is refused.
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
        qk_rope: bool,
        qk_norm: str,
        patch_size: Sequence[int],
        num_layers: int,
        mlp_type: Literal["normal", "swiglu"],
        block_type: Sequence[str],
        window: Sequence[Sequence[int]],
        window_method: Sequence[str],
        shared_qkv: bool = False,
        shared_mlp: bool = False,
    ) -> None:
        require_shared_keys(norm=norm, qk_norm=qk_norm, ada=ada, block_type=block_type, num_layers=num_layers)
        require_widths(vid_dim=vid_dim, txt_dim=txt_dim, emb_dim=emb_dim)
        require("mlp_type", mlp_type, ["normal", "swiglu"])
        require("qk_rope", qk_rope, [True])
        require("shared_qkv", shared_qkv, [False], "blocks that share weights are models.dit_v2, see mm_layers")
        require("shared_mlp", shared_mlp, [False], "blocks that share weights are models.dit_v2, see mm_layers")
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
                separate_layers=num_layers,
                mlp=mlp_type,
                rope=RopeConfig("video", head_dim // 2),
                tail=False,
                last_block_video_only=False,
            )
        )
