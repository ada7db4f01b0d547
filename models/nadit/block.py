"""One transformer block on two streams: norm, modulation, attention; norm, modulation, feed-forward."""

from torch import Tensor, nn

from common.kernels.norm import gate_residual, norm_modulate, rms_norm
from models.nadit.attention import WindowAttention
from models.nadit.config import NaDiTConfig
from models.nadit.dual import TwoStream
from models.nadit.layout import WindowLayout
from models.nadit.mlp import MLP, SwiGLU
from models.nadit.modulation import ATTENTION_SLOT, MLP_SLOT, AdaSingle, Embedding

SampleOfToken = Tensor | None


class Block(nn.Module):
    """Block number `layer` of a NaDiT.

    In the block where the text stream ends (`video_only`), text is normed but not modulated, serves as keys and values
    only, and is returned unchanged.
    """

    def __init__(self, config: NaDiTConfig, layer: int) -> None:
        super().__init__()
        shared, self.video_only, self.eps = config.shared(layer), config.video_only(layer), config.norm_eps
        mlp = SwiGLU if config.mlp == "swiglu" else MLP
        self.attn = WindowAttention(config, shared, self.video_only)
        self.mlp = TwoStream(lambda: mlp(config.dim, config.expand_ratio), shared, self.video_only)
        self.ada = TwoStream(lambda: AdaSingle(config.dim), shared, self.video_only)

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        embedding: Embedding,
        layout: WindowLayout,
        sample_of_video: SampleOfToken,
        sample_of_text: SampleOfToken,
    ) -> tuple[Tensor, Tensor]:
        """Transform video [L, C] and text [M, C], with the embedding of the time step; returns the same shapes."""
        video_ada = self.ada.video(embedding, ATTENTION_SLOT)
        a = norm_modulate(video, video_ada.scale, video_ada.shift, sample_of_video, self.eps)
        if self.video_only:
            a, _ = self.attn(a, rms_norm(text, eps=self.eps), layout)
        else:
            text_ada = self.ada.text(embedding, ATTENTION_SLOT)
            b = norm_modulate(text, text_ada.scale, text_ada.shift, sample_of_text, self.eps)
            a, b = self.attn(a, b, layout)
            text = gate_residual(text, b, text_ada.gate, sample_of_text)
            text = self._feed_forward(text, self.mlp.text, self.ada.text, embedding, sample_of_text)
        video = gate_residual(video, a, video_ada.gate, sample_of_video)
        return self._feed_forward(video, self.mlp.video, self.ada.video, embedding, sample_of_video), text

    def _feed_forward(
        self, x: Tensor, mlp: nn.Module, ada: AdaSingle, embedding: Embedding, sample: SampleOfToken
    ) -> Tensor:
        modulation = ada(embedding, MLP_SLOT)
        return gate_residual(
            x, mlp(norm_modulate(x, modulation.scale, modulation.shift, sample, self.eps)), modulation.gate, sample
        )
