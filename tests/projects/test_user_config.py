"""Every key of a YAML changes a run or is refused by its name; what the user says wins over what presets say."""

from dataclasses import fields

import pytest
import torch
from omegaconf import OmegaConf

from common.config import leaves, load_config
from projects.video_diffusion_sr.bare_network import facts
from projects.video_diffusion_sr.cli import read_request
from projects.video_diffusion_sr.cli_parser import parser
from projects.video_diffusion_sr.memory.plan import schedules
from projects.video_diffusion_sr.presets import PRESETS, SEEDVR2_3B, SEEDVR2_7B, SEEDVR2_TINY, SEEDVR_3B
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import RunSettings, resolve
from tests.conftest import ROOT
from tests.projects.released import released

STEPS, SCALE = "diffusion.timesteps.sampling.steps", "diffusion.cfg.scale"
TRAINING = "read by training only"
IDLE = "changes nothing"

# Another value for every key -> a part of the refusal; None: the run is another one.
KEYS = {
    "dit.model.vid_in_channels=41": "do not fit",
    "dit.model.vid_out_channels=8": "do not fit",
    "dit.model.vid_dim=120": None,
    "dit.model.vid_out_norm=fusedrms": None,
    "dit.model.txt_in_dim=64": None,
    "dit.model.txt_in_norm=fusedrms": IDLE,
    "dit.model.txt_dim=120": "txt_dim",
    "dit.model.emb_dim=120": "emb_dim",
    "dit.model.heads=2": None,
    "dit.model.head_dim=96": None,
    "dit.model.expand_ratio=2": None,
    "dit.model.norm=rms": IDLE,
    "dit.model.norm_eps=1e-3": None,
    "dit.model.ada=double": "ada",
    "dit.model.qk_bias=True": None,
    "dit.model.qk_norm=rms": IDLE,
    "dit.model.patch_size=[1,1,1]": None,
    "dit.model.num_layers=2": None,
    "dit.model.mm_layers=3": None,
    "dit.model.mlp_type=normal": None,
    "dit.model.msa_type=fancy": "msa_type",
    "dit.model.block_type=[a,a,a,a,a,a]": "block_type",
    "dit.model.window=[[1,3,3],[1,3,3],[1,3,3],[1,3,3],[1,3,3],[1,3,3]]": None,
    "dit.model.window_method=x": "window_method",
    "dit.model.rope_type=ropes": "rope_type",
    "dit.model.rope_dim=32": None,
    "dit.compile=True": TRAINING,
    "dit.gradient_checkpoint=True": TRAINING,
    "dit.gradient_checkpoint_keeps=products": TRAINING,
    "dit.fsdp.sharding_strategy=FULL_SHARD": TRAINING,
    "ema.decay=0.5": TRAINING,
    "vae.model.act_fn=relu": "act_fn",
    "vae.model.block_out_channels=[8,8,16]": None,
    "vae.model.down_block_types=[A]": "down_block_types",
    "vae.model.up_block_types=[A]": "up_block_types",
    "vae.model.in_channels=4": "do not fit",
    "vae.model.out_channels=4": "do not fit",
    "vae.model.latent_channels=8": "do not fit",
    "vae.model.layers_per_block=2": None,
    "vae.model.norm_num_groups=2": None,
    "vae.model.slicing_sample_min_size=8": IDLE,
    "vae.model.temporal_scale_num=2": "temporal_downsample_factor",
    "vae.model.inflation_mode=tail": "inflation_mode",
    "vae.model.spatial_downsample_factor=8": "spatial_downsample_factor",
    "vae.model.temporal_downsample_factor=4": "temporal_downsample_factor",
    "vae.model.use_quant_conv=True": "use_quant_conv",
    "vae.model.use_post_quant_conv=True": "use_post_quant_conv",
    "vae.model.freeze_encoder=True": TRAINING,
    "vae.checkpoint=other.safetensors": "--random_weights",
    "vae.scaling_factor=0.5": None,
    "vae.use_sample=True": None,
    "vae.compile=True": TRAINING,
    "vae.grouping=True": TRAINING,
    "vae.dtype=bfloat16": None,
    "vae.slicing.split_size=8": None,
    "vae.slicing.memory_device=cpu": IDLE,
    "vae.memory_limit.conv_max_mem=0.25": None,
    "vae.memory_limit.norm_max_mem=2": IDLE,
    "diffusion.schedule.type=cosine": "diffusion.schedule.type",
    "diffusion.schedule.T=500.0": None,
    "diffusion.sampler.type=ddim": "diffusion.sampler.type",
    "diffusion.sampler.prediction_type=x_0": None,
    "diffusion.timesteps.training.type=uniform": TRAINING,
    "diffusion.timesteps.training.loc=1.0": TRAINING,
    "diffusion.timesteps.training.scale=2.0": TRAINING,
    "diffusion.timesteps.sampling.type=uniform": "diffusion.timesteps.sampling.type",
    "diffusion.timesteps.sampling.steps=4": None,
    "diffusion.timesteps.sampling.shift=2.0": "with one step",
    "diffusion.timesteps.transform=False": IDLE,
    "diffusion.loss.type=x_0": TRAINING,
    "diffusion.cfg.scale=3": None,
    "diffusion.cfg.rescale=0.5": "without guidance",
    "diffusion.cfg.partial=0.5": "without guidance",
    "condition.i2v=0.5": TRAINING,
    "condition.v2v=0.5": TRAINING,
    "condition.sr=0.5": TRAINING,
    "condition.noise_scale=0.5": TRAINING,
    "__object__.name=Other": TRAINING,
}
KEYS_OF_7B = ["dit.model.qk_rope=False", "dit.model.shared_qkv=True", "dit.model.shared_mlp=True"]


def settings(*overrides: str, preset=SEEDVR2_TINY, device: str = "cpu", **request) -> RunSettings:
    asked = Request(res=(64, 64), random_weights=True, overrides=overrides, **request)
    return resolve(preset, asked, torch.device(device))


def effect(run: RunSettings) -> list:
    """All that a run goes by, so without the YAML that it came from."""
    plain = [getattr(run, f.name) for f in fields(run) if f.name not in ("request", "config", "vae", "dit")]
    vae = run.vae.split_size, run.vae._memory_device, run.config.vae.scaling_factor, run.config.vae.use_sample
    return [plain, vae, facts(run.vae), facts(run.dit)]


@pytest.fixture(scope="module")
def untouched() -> list:
    return effect(settings())


@pytest.mark.parametrize("override", KEYS)
def test_a_key_changes_the_run_or_is_refused_by_name(override, untouched):
    if (refusal := KEYS[override]) is None:
        assert effect(settings(override)) != untouched
        return
    with pytest.raises(ValueError, match=refusal) as refused:
        settings(override)
    assert override.partition("=")[0] in str(refused.value)


@pytest.mark.parametrize("override", KEYS_OF_7B)
def test_keys_of_the_7b_alone_are_refused_by_name(override):
    with pytest.raises(ValueError, match=override.partition("=")[0].rpartition(".")[2]):
        settings(override, preset=SEEDVR2_7B)


@pytest.mark.parametrize("preset", [SEEDVR2_TINY, SEEDVR2_3B, SEEDVR2_7B])
def test_no_key_is_left_out(preset):
    keys = {key for key in leaves(OmegaConf.to_container(load_config(ROOT / preset.config))) if "__object__" not in key}
    assert sorted(keys - {override.partition("=")[0] for override in (*KEYS, *KEYS_OF_7B)}) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("diffusion.steps=4", "nearest key: diffusion.timesteps.sampling.steps"),
        ("cfg_scale=4", "nearest key: diffusion.cfg.scale"),
        ("dit.dtype=float16", "use --dtype or vae.dtype"),
        ("diffusion.cfg={}", "is a group"),
        ("diffusion.timesteps.sampling.steps=2.5", "sampling.steps must be int, got"),
        ("diffusion.timesteps.sampling.steps=many", "sampling.steps must be int, got"),
        ("vae.use_sample=perhaps", "vae.use_sample must be True or False"),
        ("vae.scaling_factor=0", "vae.scaling_factor must be above 0"),
        ("vae.slicing.split_size=few", "vae.slicing.split_size must be"),
        ("dit.model.vid_dim=-3", "config key dit.model.vid_dim"),
        ("dit.model.patch_size=3", "config key dit.model.patch_size"),
    ],
)
def test_wrong_keys_and_values_are_named(override, said):
    with pytest.raises(ValueError, match=said):
        settings(override)


def test_keys_that_only_work_together_do():
    guided = settings(f"{SCALE}=2", "diffusion.cfg.rescale=0.5", "diffusion.cfg.partial=0.5", f"{STEPS}=2").sampling
    assert (guided.steps, guided.guidance.scale, guided.guidance.rescale, guided.guidance.partial) == (2, 2, 0.5, 0.5)
    assert settings(f"{STEPS}=2", "diffusion.timesteps.sampling.shift=3.0").sampling.shift == 3.0
    assert not settings("diffusion.timesteps.transform=False", preset=SEEDVR_3B).sampling.resolution_shift
    both = settings("vae.memory_limit.conv_max_mem=1", "vae.memory_limit.norm_max_mem=1")
    assert both.most_bytes == 2**30


def test_the_users_word_wins_over_the_preset_and_a_flag_over_all(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"__inherit__: {ROOT / SEEDVR_3B.config}\ndiffusion: {{cfg: {{scale: 3.0}}, timesteps: "
                    "{sampling: {steps: 5}}}\n")  # fmt: skip
    sampled = {}
    for name, overrides, request in (
        ("preset", (), {}),
        ("file", (), {"config": str(file)}),
        ("set", (f"{SCALE}=7.5", f"{STEPS}=50"), {"config": str(file)}),  # the released YAML's values, but asked for
        ("flag", (f"{SCALE}=4",), {"config": str(file), "cfg_scale": 2.0, "steps": 3}),
    ):
        sampling = settings(*overrides, preset=SEEDVR_3B, **request).sampling
        sampled[name] = sampling.guidance.scale, sampling.steps
    assert sampled == {"preset": (6.5, 50), "file": (3.0, 5), "set": (7.5, 50), "flag": (2.0, 3)}
    assert settings("vae.dtype=bfloat16", dtype="float16").dtype == torch.float16


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ema: {decay: 0.5}", "mine.yaml: config key ema.decay is read by training only"),
        ("diffusion: {loss: {type: x_0}}", "diffusion.loss.type is read by training only"),
        ("vae: {slices: 3}", "mine.yaml: unknown config key vae.slices"),
        ("dit: {dtype: float16}", "use --dtype or vae.dtype"),
        ("dit: {model: {nonsense: 3}}", "nonsense"),
        ("diffusion: {cfg: {rescale: 0.5}}", "diffusion.cfg.rescale changes nothing without guidance"),
    ],
)
def test_keys_of_a_users_file_are_held_to_the_same(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(f"__inherit__: {ROOT / SEEDVR2_TINY.config}\n{text}\n")
    with pytest.raises(ValueError, match=said):
        settings(config=str(tmp_path / "mine.yaml"))


def test_a_file_without_a_key_that_is_needed_is_named(tmp_path):
    tree = OmegaConf.to_container(load_config(ROOT / SEEDVR2_TINY.config))
    del tree["vae"]["slicing"]
    OmegaConf.save(OmegaConf.create(tree), tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=r"mine\.yaml: config key vae\.slicing\.\w+ is missing"):
        settings(config=str(tmp_path / "mine.yaml"))


def test_another_released_yaml_changes_nothing_of_the_preset():
    run = settings(config="configs_3b/main.yaml")
    assert (run.sampling.steps, run.sampling.guidance.scale) == (1, 1.0)


def test_on_a_gpu_the_users_slices_are_kept_and_a_limit_that_plans_replace_is_refused():
    assert settings("vae.slicing.split_size=8", device="cuda").fixed_slices and not settings().fixed_slices
    with pytest.raises(ValueError, match="conv_max_mem is not read on a GPU"):
        settings("vae.memory_limit.conv_max_mem=0.25", device="cuda")
    slices = [
        {schedule.slice_frames for schedule in schedules(released()(97, 720, 1280, fixed_slices=fixed))}
        for fixed in (True, False)
    ]
    assert slices[0] == {4} and len(slices[1]) > 1


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_both_flags_and_leaves_them_to_the_preset(name):
    places = ["--video_path", "a", "--output_dir", "b"]
    request = read_request(parser(PRESETS[name]).parse_args([*places, "--sample_steps", "3", "--cfg_scale", "2"]))
    assert (request.steps, request.cfg_scale) == (3, 2.0)
    request = read_request(parser(PRESETS[name]).parse_args(places))
    assert (request.steps, request.cfg_scale) == (None, None)
