"""Window attention: the video tokens of a window attend to each other and to all text tokens of their sample."""

import torch
from torch import Tensor, nn

from common.kernels.attention import attention
from common.kernels.norm import rms_norm
from common.kernels.window_qkv import Stream, window_qkv
from models.nadit.config import NaDiTConfig
from models.nadit.dual import TwoStream
from models.nadit.layout import WindowLayout
from models.nadit.rope import RopeFrequencies, Tables


class HeadNorm(nn.Module):
    """RMSNorm over the features of one head, with a learned weight."""

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class WindowAttention(nn.Module):
    """Video tokens attend within their window, and text tokens within each window of their sample (then averaged).

    Args:
        video_only: do not compute the text's output, which nothing uses; its keys and values are computed.
    """

    def __init__(self, config: NaDiTConfig, shared: bool, video_only: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.video_only = config.heads, config.head_dim, video_only
        inner = config.heads * config.head_dim
        self.proj_qkv = TwoStream(lambda: nn.Linear(config.dim, 3 * inner, bias=config.qkv_bias), shared)
        self.proj_out = TwoStream(lambda: nn.Linear(inner, config.dim), shared)
        self.norm_q = TwoStream(lambda: HeadNorm(config.head_dim, config.norm_eps), shared)
        self.norm_k = TwoStream(lambda: HeadNorm(config.head_dim, config.norm_eps), shared)
        self.rope = RopeFrequencies(config.rope)

    def forward(self, video: Tensor, text: Tensor, layout: WindowLayout) -> tuple[Tensor, Tensor | None]:
        """video: [L, C], text: [M, C] -> the same shapes; None for the text of a `video_only` layer."""
        of_video = self._stream(self.proj_qkv.video(video), self.norm_q.video, self.norm_k.video, layout.rope_video)
        of_text = self._stream(self.proj_qkv.text(text), self.norm_q.text, self.norm_k.text, layout.rope_text)
        q, k, v = window_qkv(of_video, of_text, layout.rows, self.heads, self.norm_q.video.eps)  # each S H D
        out = attention(q, k, v, layout.sequences).flatten(1)  # S (H D)
        video = self.proj_out.video(out.index_select(0, layout.video_rows))
        return video, None if self.video_only else self.proj_out.text(mean_over_windows(out, layout, len(text)))

    @staticmethod
    def _stream(qkv: Tensor, norm_q: HeadNorm, norm_k: HeadNorm, rope: Tables | None) -> Stream:
        return Stream(qkv, norm_q.weight, norm_k.weight, rope)


def mean_over_windows(out: Tensor, layout: WindowLayout, tokens: int) -> Tensor:
    """The output of each text token, the mean over all windows of its sample: [S, C] -> [M, C]."""
    text = None
    for group in layout.text_means:
        rows = out.index_select(0, group.rows.flatten()).unflatten(0, group.rows.shape)  # samples windows length C
        mean = (rows.float().sum(1) / group.windows).flatten(0, 1)
        if len(mean) == tokens:
            text = mean
        else:
            text = mean.new_zeros(tokens, mean.shape[-1]) if text is None else text
            text = text.index_copy(0, group.target, mean)
    if text is None:  # a rank without windows: zeros, with a gradient as on other ranks
        text = out.float().sum(0, keepdim=True).expand(tokens, -1)
    return layout.exchange.sum(text, "text").to(out.dtype)
