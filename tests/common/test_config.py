"""Configuration files: inheritance, expressions, overrides, objects; and the released ones."""

import textwrap

import pytest
from omegaconf import DictConfig, OmegaConf

from common.config import create_object, load_config
from common.diffusion import Guidance, LogitNormal
from tests.conftest import ROOT


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file into a fresh folder and says where."""

    def to(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return to


def test_a_mapping_inherits_and_its_own_keys_win_at_any_depth(write):
    write("base/one.yaml", "a: 1\nb: {c: 2, d: 3}\nlist: [1, 2, 3]\n")
    write("base/two.yaml", "__inherit__: one.yaml\nb: {d: 4}\n")
    write("base/three.yaml", "e: 5\na: 9\n")
    path = write("main.yaml", "x:\n  __inherit__: [base/two.yaml, base/three.yaml]\n  b: {c: 7}\n  list: [8]\n")
    assert load_config(path) == {"x": {"a": 9, "b": {"c": 7, "d": 4}, "list": [8], "e": 5}}


def test_inherited_paths_are_also_looked_for_in_the_repository_from_any_working_directory(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write("far/main.yaml", "vae: {__inherit__: models/video_vae_v3/s8_c16_t4_inflation_sd3.yaml}\n")
    assert load_config(path).vae.latent_channels == 16
    assert load_config("configs_3b/main.yaml").dit.model.heads == 20


def test_cycles_and_missing_files_are_named(write):
    write("a.yaml", "x: {__inherit__: b.yaml}\n")
    b = write("b.yaml", "__inherit__: a.yaml\n")
    with pytest.raises(ValueError, match=r"b\.yaml -> a\.yaml -> b\.yaml"):
        load_config(b)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config(write("c.yaml", "__inherit__: nowhere.yaml\n"))
    with pytest.raises(ValueError, match="path or a list of paths"):
        load_config(write("d.yaml", "__inherit__: 3\n"))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "a: 1\na: 2\n", "a: !!python/object/apply:os.getcwd []\n"])
def test_what_is_not_a_mapping_in_yaml_is_refused(write, text):
    with pytest.raises(ValueError, match=r"main\.yaml"):
        load_config(write("main.yaml", text))


def test_expressions_follow_overrides_and_nothing_else_runs(write):
    path = write("main.yaml", "n: 2\nlist: \"${eval:'${.n} * [(4, 3)]'}\"\nsix: ${eval:'6 * ${n}'}\n")
    config = load_config(path, ["n=3"])
    assert config.six == 18 and OmegaConf.to_container(config.list) in ([[4, 3]] * 3, [(4, 3)] * 3)
    with pytest.raises(ValueError, match="Call is not allowed"):
        load_config(write("bad.yaml", "a: ${eval:'open(1)'}\n"))
    with pytest.raises(ValueError, match="nothing_here"):
        load_config(write("gone.yaml", "a: ${nothing_here}\n"))


def test_overrides_reach_any_key_and_read_values_as_yaml(write):
    path = write("main.yaml", "a: {b: 1, c: [1, [2, 3]], d: text, e: {f: 1, g: 2}}\n")
    config = load_config(path, ["a.b=1e-5", "a.c.1.0=7", "a.d=null", "a.e={g: 5}"])
    assert config == {"a": {"b": 1e-5, "c": [1, [7, 3]], "d": None, "e": {"f": 1, "g": 5}}}
    assert load_config(path, ["a.c=[[1,2],[3,4]]"]).a.c == [[1, 2], [3, 4]]
    assert load_config(path, ["a.d=x=y"]).a.d == "x=y"
    assert load_config(path, ["a.b=1", "a.b=2"]).a.b == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dit.model.vid_dimm=3", "did you mean vid_dim"),
        ("ditt.model.vid_dim=3", "did you mean dit"),
        ("vae.slicing={spilt_size: 8}", "did you mean split_size"),
        ("dit.model=3", "is a group"),
        ("dit.model.heads.x=3", "single value"),
        ("dit.model.patch_size.3=1", "entries 0 to 2"),
        ("dit.model.heads", "must have the form"),
        ("=3", "must have the form"),
        ("dit.model.heads=[1", "not YAML"),
    ],
)
def test_wrong_overrides_are_refused_with_a_sentence(override, words):
    with pytest.raises(ValueError, match=words):
        load_config(ROOT / "configs_3b" / "main.yaml", [override])


def test_reading_a_key_that_is_not_there_is_an_error(write):
    config = load_config(write("main.yaml", "a: 1\n"))
    with pytest.raises(Exception, match="nope"):
        _ = config.nope


def object_config(**rest):
    return OmegaConf.create(
        {"__object__": {"path": "common.diffusion", "name": "Guidance", "args": "as_params"}, **rest}
    )


def test_create_object_passes_keys_as_parameters_or_as_one_config():
    assert create_object(object_config(scale=3.0)) == Guidance(3.0)
    assert create_object(object_config(scale=3.0), scale=4.0, partial=0.5) == Guidance(4.0, 0.0, 0.5)
    with pytest.raises(TypeError, match="stale"):
        create_object(object_config(stale=1))
    as_config = {"__object__": {"path": "common.diffusion.timesteps", "name": "LogitNormal"}, "a": {"b": 1}}
    made = create_object(OmegaConf.create(as_config), loc=2.0)
    assert (
        isinstance(made, LogitNormal)
        and isinstance(made.T, DictConfig)
        and made.T == {"a": {"b": 1}}
        and made.loc == 2.0
    )


def test_parameters_arrive_in_plain_containers():
    made = create_object(object_config(scale=[1, {"a": [2]}]))
    assert type(made.scale) is list and type(made.scale[1]) is dict and type(made.scale[1]["a"]) is list


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"path": "os", "name": "system"}, "only classes of"),
        ({"path": "subprocess", "name": "Popen"}, "only classes of"),
        ({"path": "common/../os", "name": "system"}, "only classes of"),
        ({"path": "builtins", "name": "eval"}, "only classes of"),
        ({"path": "common.config", "name": "Path"}, "does not define"),
        ({"path": "common.config", "name": "OmegaConf"}, "does not define"),
        ({"path": "common.config", "name": "load_config"}, "has no class"),
        ({"path": "common.config", "name": "importlib"}, "has no class"),
        ({"path": "common.nowhere", "name": "X"}, "does not exist"),
        ({"path": "common.diffusion", "name": "Guidance", "args": "as_list"}, "as_params or as_config"),
        ({"path": "common.diffusion", "name": "Guidance", "arg": "as_params"}, "unknown keys"),
        ({"name": "Guidance"}, "only classes of"),
    ],
)
def test_only_classes_of_this_repository_can_be_created(about, words):
    with pytest.raises(ValueError, match=words):
        create_object(OmegaConf.create({"__object__": about}))


def test_a_config_without_a_class_says_so():
    with pytest.raises(ValueError, match="names no class"):
        create_object(OmegaConf.create({"a": 1}))


@pytest.mark.parametrize(("generation", "blocks", "width", "heads"), [("3b", 32, 2560, 20), ("7b", 36, 3072, 24)])
def test_the_released_configurations_compute_their_lists(generation, blocks, width, heads):
    config = load_config(ROOT / f"configs_{generation}" / "main.yaml")
    model = config.dit.model
    assert model.vid_dim == model.txt_dim == width and model.emb_dim == 6 * width and model.heads == heads
    assert model.heads * model.head_dim == width
    assert len(model.block_type) == len(model.window) == len(model.window_method) == model.num_layers == blocks
    assert all(tuple(window) == (4, 3, 3) for window in model.window)
    assert list(model.window_method[:2]) == ["720pwin_by_size_bysize", "720pswin_by_size_bysize"]
    assert config.vae.model.block_out_channels == [128, 256, 512, 512] and len(config.vae.model.up_block_types) == 4
    assert config["__object__"].name == "VideoDiffusionTrainer" and config.diffusion.schedule.T == 1000.0
    assert (
        len(load_config(ROOT / f"configs_{generation}" / "main.yaml", ["dit.model.num_layers=4"]).dit.model.window) == 4
    )
