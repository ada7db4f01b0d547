"""Weights in the layouts that people have: each gives the release's names and values, or is refused by what it is."""

import json
import logging
import struct

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from torch import nn

from common.checkpoint import load_into
from common.weights.read import read_weights

WIDTH = 512  # Q4_K packs rows of 256


class Network(nn.Module):
    """Names like the transformer's, one of which looks like a scale and is none."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.vid_in = nn.ModuleDict({"proj": nn.Linear(132, width)})
        self.blocks = nn.ModuleList([nn.Linear(width, 8), nn.Linear(width, 8)])
        self.mlp_scale, self.mlp = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.rope = nn.Module()
        self.rope.register_buffer("freqs", torch.arange(3.0))

    def reset_buffers(self, device=None) -> None:
        self.rope.freqs = torch.arange(3.0, device=device)


class Vae(nn.Module):
    """Names like the video VAE's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"conv_in": nn.Conv3d(3, 4, 3)})


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in Network().state_dict().items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


def loaded(path, kind=Network) -> dict[str, torch.Tensor]:
    """What a network on the meta device holds after loading the file."""
    with torch.device("meta"):
        network = kind()
    load_into(network, read_weights(path, network.state_dict()), dtype=torch.float32, source=path)
    return network.state_dict()


def same(got, expected) -> bool:
    return set(got) == set(expected) and all(torch.equal(got[name], expected[name]) for name in expected)


def in_8_bits(state, each: str, named: str, dtype=torch.float8_e4m3fn):
    """(the file's tensors, what they stand for): the weights of the blocks in 8 bits with scales."""
    stored, meant = dict(state), dict(state)
    limit = 127 if dtype == torch.int8 else 448
    for name in ("blocks.0.weight", "blocks.1.weight"):
        weight = state[name]
        scale = (weight.abs().amax(dim=1, keepdim=True) if each == "row" else weight.abs().amax()) / limit
        small = weight / scale
        stored[name] = (small.round() if dtype == torch.int8 else small).to(dtype)
        stored[named.format(name.removesuffix(".weight"))] = scale
        meant[name] = stored[name].float() * scale
    return stored, meant


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "module.", "dit."])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_16_bit_and_plain_8_bit_floats_below_any_prefix(state, path, prefix, dtype):
    mixed = {name: tensor.to(torch.float16 if "blocks.1" in name else dtype) for name, tensor in state.items()}
    save_file({prefix + name: tensor for name, tensor in mixed.items()}, path)
    expected = {name: tensor.float() for name, tensor in mixed.items()}
    assert same(loaded(path), {**expected, "rope.freqs": torch.arange(3.0)})


@pytest.mark.parametrize("each", ["tensor", "row"])
@pytest.mark.parametrize("named", ["{}.scale_weight", "{}.weight_scale"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_8_bits_with_scales_are_multiplied_out(state, path, each, named, dtype):
    stored, meant = in_8_bits(state, each, named, dtype)
    stored |= {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn), "blocks.0.input_scale": torch.tensor(0.5)}
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in stored.items()}, path)
    assert same(loaded(path), meant)
    assert (loaded(path)["blocks.0.weight"] - state["blocks.0.weight"]).abs().max() < 0.1 * state[
        "blocks.0.weight"
    ].max()


def test_a_flat_scale_counts_rows_also_of_square_weights(path):
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Linear(4, 4, bias=False)

    weight, scale = torch.ones(4, 4).to(torch.float8_e4m3fn), torch.arange(1.0, 5)
    save_file({"blocks.weight": weight, "blocks.weight_scale": scale}, path)
    assert torch.equal(loaded(path, Square)["blocks.weight"], scale[:, None].expand(4, 4))
    save_file({"blocks.weight": weight, "blocks.weight_scale": scale[None]}, path)
    with pytest.raises(ValueError, match="scale for each column"):
        loaded(path, Square)


def test_a_parameter_that_is_called_a_scale_is_not_taken_for_one(state, path):
    save_file(state, path)
    assert torch.equal(loaded(path)["mlp"], state["mlp"]) and torch.equal(loaded(path)["mlp_scale"], state["mlp_scale"])


@pytest.mark.parametrize("where", ["tensor", "header"])
def test_declared_formats_are_read_where_they_are_value_times_scale(state, path, where):
    stored, meant = in_8_bits(state, "tensor", "{}.weight_scale")
    words = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    header = None
    if where == "tensor":
        stored["blocks.0.comfy_quant"] = torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)
    else:
        header = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": {"blocks.0": words}})}
    save_file(stored, path, header)
    assert same(loaded(path), meant)


def test_converters_may_leave_computed_frequencies_out_but_nothing_else(state, path):
    stored, meant = in_8_bits(state, "tensor", "{}.scale_weight")
    del stored["rope.freqs"]
    save_file(stored, path)
    assert same(loaded(path), meant)
    del stored["blocks.1.bias"]
    save_file(stored, path)
    with pytest.raises(ValueError, match=r"1 names are missing: blocks\.1\.bias"):
        loaded(path)


def test_one_file_for_all_networks_gives_each_its_own(state, path):
    vae = Vae().state_dict()
    parts = {"model.diffusion_model.": state, "first_stage_model.": vae, "text_encoders.x.": {"w": torch.ones(1)}}
    save_file({prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}, path)
    assert same(loaded(path), state) and same(loaded(path, Vae), vae)
    extra = {"model.diffusion_model.blocks.9.weight": torch.ones(1), "positive_conditioning": torch.ones(58, 5120)}
    save_file({**{f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}, **extra}, path)
    with pytest.raises(ValueError, match=r"1 names are unknown: blocks\.9\.weight"):
        loaded(path)


def quantised(kind: Kind, rows: int, columns: int) -> np.ndarray:
    """Bytes of random blocks of one kind, with scales that are numbers."""
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (rows * columns // per_block, size), dtype=np.uint8)
    halves = 2 if kind == Kind.Q4_K else 1  # scale, and for Q4_K also the scale of the minima
    scales = rng.uniform(0.001, 0.01, (len(blocks), halves)).astype(np.float16)
    blocks[:, : 2 * halves] = scales.view(np.uint8).reshape(len(blocks), -1)
    return blocks.reshape(rows, -1)


def unpacked(kind: Kind, blocks: np.ndarray, columns: int) -> torch.Tensor:
    """The numbers that the bytes stand for, block by block as the format describes them."""
    rows = []
    for block in blocks.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1]):
        scale = float(block[:2].view(np.float16)[0])
        if kind == Kind.Q8_0:
            rows.append(block[2:].view(np.int8).astype(np.float32) * scale)
            continue
        minimum, packed, nibbles = float(block[2:4].view(np.float16)[0]), block[4:16].astype(int), block[16:]
        for group in range(8):  # 32 numbers each; 6-bit scale and minimum
            if group < 4:
                s, m = packed[group] & 63, packed[group + 4] & 63
            else:
                s = (packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4)
                m = (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4)
            four = nibbles[32 * (group // 2) :][:32] >> (4 * (group % 2)) & 15
            rows.append(four.astype(np.float32) * (scale * s) - minimum * m)
    return torch.from_numpy(np.concatenate(rows)).reshape(-1, columns).float()


def write_gguf(path, tensors, architecture: str = "seedvr") -> None:
    """A GGUF file of (array, kind) by name."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_K])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_gguf_blocks_are_unpacked(state, tmp_path, kind, prefix):
    path, blocks = tmp_path / "w.gguf", quantised(kind, 8, WIDTH)
    tensors = {
        prefix + n: (t.half().numpy() if t.ndim > 1 else t.numpy(), None) for n, t in state.items() if "rope" not in n
    }
    tensors[prefix + "blocks.0.weight"] = (blocks, kind)
    write_gguf(path, tensors)
    got, expected = loaded(path), unpacked(kind, blocks, WIDTH)
    assert expected.abs().max() > 0.1
    assert torch.allclose(got["blocks.0.weight"], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(got["blocks.1.weight"], state["blocks.1.weight"].half().float())
    assert torch.equal(got["blocks.1.bias"], state["blocks.1.bias"])


def test_gguf_gives_back_shapes_of_more_than_four_dimensions(tmp_path):
    weight = Vae().state_dict()["encoder.conv_in.weight"]
    writer = gguf.GGUFWriter(tmp_path / "vae.gguf", "seedvr")
    writer.add_array("comfy.gguf.orig_shape.encoder.conv_in.weight", list(weight.shape))
    writer.add_tensor("encoder.conv_in.weight", weight.flatten(1).numpy())
    writer.add_tensor("encoder.conv_in.bias", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert torch.equal(loaded(tmp_path / "vae.gguf", Vae)["encoder.conv_in.weight"], weight)


def test_damaged_gguf_and_other_kinds_of_blocks_are_refused(state, tmp_path):
    path = tmp_path / "w.gguf"
    write_gguf(path, {name: (tensor.numpy(), None) for name, tensor in state.items()})
    whole = path.read_bytes()
    for content in (b"", b"GGUF", whole[:40], whole[: len(whole) // 2], b"\xff" * 500):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"w\.gguf is damaged or no GGUF file"):
            loaded(path)
    odd = {name: (tensor.numpy(), None) for name, tensor in state.items()}
    size = gguf.GGML_QUANT_SIZES[Kind.Q8_K][1]
    odd["blocks.0.weight"] = (np.zeros((8, 2 * size), np.uint8), Kind.Q8_K)
    write_gguf(path, odd)
    with pytest.raises(ValueError, match=r"blocks\.0\.weight is stored as Q8_K"):
        loaded(path)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "w.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(RuntimeError, match=r"w\.gguf: reading GGUF needs the library gguf.*seedvr\[gguf\]"):
        loaded(tmp_path / "w.gguf")


NVFP4 = {"blocks.0.weight": torch.zeros(8, WIDTH // 2, dtype=torch.uint8),
         "blocks.0.weight_scale": torch.zeros(8, WIDTH // 16, dtype=torch.float8_e4m3fn),
         "blocks.0.weight_scale_2": torch.tensor(1.0)}  # fmt: skip
MXFP8 = {"blocks.0.weight": torch.zeros(8, WIDTH, dtype=torch.float8_e4m3fn),
         "blocks.0.weight_scale": torch.zeros(8, WIDTH // 32, dtype=torch.uint8)}  # fmt: skip
INT8 = {"blocks.0.weight": torch.zeros(8, WIDTH, dtype=torch.int8)}
CONVROT = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
BARE_FP4 = {"blocks.0.weight": torch.zeros(8, WIDTH // 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}


def declared(words) -> dict[str, torch.Tensor]:
    return {"blocks.0.comfy_quant": torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (NVFP4, "nvfp4"),
        (declared({"format": "nvfp4"}), "the layer blocks.0 is stored as nvfp4"),
        (MXFP8, "mxfp8"),
        (declared({"format": "mxfp8"}), "stored as mxfp8"),
        (INT8, "int8 without a scale"),
        ({**INT8, "blocks.0.weight_scale": torch.tensor(0.1), **declared(CONVROT)}, "int8_tensorwise with convrot"),
        ({**INT8, "blocks.0.weight_scale": torch.ones(8, 4)}, "block-wise integers"),
        ({**INT8, "blocks.0.SCB": torch.ones(8)}, "bitsandbytes"),
        (BARE_FP4, "float4_e2m1fn_x2"),
        ({"blocks.7.scale_weight": torch.ones(())}, "the weight that it belongs to is not in the file"),
        ({"blocks.0.comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)}, "should be JSON"),
    ],
)
def test_quantised_layouts_that_are_not_read_are_refused_by_name(state, path, change, said):
    save_file({**state, **change}, path)
    with pytest.raises(ValueError) as caught:
        loaded(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message
    assert "use the 16-bit file" in message or "fetch the file again" in message


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", (4, 4, 3, 3), "U-Net of Stable Diffusion"),
        ("blocks.0.cross_attn.q.weight", (4, 4), "transformer of Wan"),
        ("model.diffusion_model.blocks.0.cross_attn.q.weight", (4, 4), "transformer of Wan"),
        ("double_blocks.0.img_attn.qkv.weight", (4, 4), "FLUX"),
        ("first_stage_model.decoder.up.0.block.0.conv1.weight", (4, 4, 3, 3), "VAE of Stable Diffusion"),
        ("encoder.downsamples.0.residual.2.weight", (4, 4, 3, 3), "VAE of Wan"),
        ("blocks.0.attn.lora_down.weight", (4, 4), "a LoRA; give it with --lora"),
        ("body.0.rdb1.conv1.weight", (4, 4, 3, 3), "ESRGAN"),
        ("encoder.conv_in.weight", (4, 3, 3, 3, 3), "give them with --vae_checkpoint"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_other_models_files_are_refused_by_what_they_are(tmp_path, name, shape, said, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".gguf":
        write_gguf(path, {name: (np.zeros(shape[-4:], np.float32), None)}, "other")
        said_also = "calls itself 'other'"
    else:
        save_file({name: torch.zeros(shape)}, path)
        said_also = "download.py"
    with pytest.raises(ValueError) as caught:
        loaded(path)
    assert said in str(caught.value) and said_also in str(caught.value)


def test_the_other_size_and_the_other_network_are_named(state, path):
    save_file({**state, "vid_in.proj.weight": torch.zeros(3072, 132)}, path)
    with pytest.raises(ValueError, match=r"width 3072 \(the 7B\), and this preset's has 512"):
        loaded(path)
    with pytest.raises(ValueError, match="give them with --checkpoint"):
        loaded(path, Vae)
    save_file({"encoder.conv_in.weight": torch.zeros(4, 3, 3, 3), "encoder.conv_in.bias": torch.zeros(4)}, path)
    with pytest.raises(ValueError, match="VAE of pictures"):
        loaded(path, Vae)


def test_verbose_says_which_layout_was_found(state, path, caplog):
    stored, _ = in_8_bits(state, "row", "{}.scale_weight")
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in stored.items()}, path)
    with caplog.at_level(logging.DEBUG, "common.weights"):
        loaded(path)
    assert "2 weights as float8_e4m3fn with a scale a row" in caplog.text
    assert "names below 'model.diffusion_model.'" in caplog.text and "dequantised at loading" in caplog.text


def test_a_file_whose_header_lies_about_its_length_is_refused(path):
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        loaded(path)


def test_other_kinds_of_files_and_missing_ones_say_what_is_read(tmp_path):
    (tmp_path / "w.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"w\.ckpt: weights are read from \.pth, \.pt, \.safetensors and \.gguf"):
        loaded(tmp_path / "w.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*w\.gguf"):
        loaded(tmp_path / "w.gguf")


@pytest.mark.parametrize("kind", [Kind.BF16, Kind.Q4_0, Kind.Q5_1])
def test_gguf_of_other_kinds_that_the_package_packs(state, tmp_path, kind):
    weight = state["blocks.0.weight"].numpy()
    tensors = {name: (tensor.numpy(), None) for name, tensor in state.items()}
    tensors["blocks.0.weight"] = (gguf.quants.quantize(weight, kind), kind)
    write_gguf(tmp_path / "w.gguf", tensors)
    error = np.abs(loaded(tmp_path / "w.gguf")["blocks.0.weight"].numpy() - weight).max()
    assert 0 < error < {Kind.BF16: 0.004, Kind.Q4_0: 0.13, Kind.Q5_1: 0.06}[kind] * np.abs(weight).max()
