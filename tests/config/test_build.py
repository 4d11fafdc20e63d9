from __future__ import annotations

import pytest

from inlay.config.build import Builder, register, resolve
from inlay.config.load import load_config
from inlay.core.errors import ConfigError, DataError


def fail_with_data_error() -> None:
    raise DataError("empty")


def test_nodes_are_built_depth_first_and_top_level_nodes_are_shared(write):
    cfg = load_config(write())
    builder = Builder(cfg)
    loader = builder.build(cfg.train_dataloader)
    assert loader["batch_size"] == 2
    assert loader["dataset"].words is builder.build(cfg.tokenizer)
    assert builder.build(dict(cfg.tokenizer)) is builder.build(cfg.tokenizer)
    assert builder.build(cfg.model).adapter.r == 4
    hooks = builder.build(cfg.custom_hooks)
    assert hooks[1].prompt_template == cfg.template
    assert cfg.train_dataloader["dataset"]["words"]["path"] == "words", "the config is not changed"


def test_given_arguments_win_and_are_not_shared(write):
    cfg = load_config(write())
    builder = Builder(cfg)
    optimizer = builder.build(cfg.optim_wrapper["optimizer"], params=[1], lr=5)
    assert (optimizer.params, optimizer.lr) == ([1], 5)
    assert builder.build(cfg.model, width=1).width == 1
    assert builder.build(cfg.model).width == 4
    with pytest.raises(ConfigError, match=r"\['params'\] need a dict\(type"):
        builder.build([1], params=2)


def test_a_failing_constructor_is_named_by_its_path(write):
    cfg = load_config(write(), ["width=-1"])
    with pytest.raises(ConfigError, match=r"^model: Net failed: ValueError: negative width"):
        Builder(cfg).build(cfg.model)
    with pytest.raises(DataError, match=r"^empty$"):
        Builder({}).build({"type": fail_with_data_error})


def test_types_are_callables_dotted_paths_or_registered_names():
    import torch
    from toy_parts import Adam, Words

    assert resolve(Adam) is Adam
    assert resolve("torch.optim.SGD") is torch.optim.SGD
    assert resolve("toy_parts.Words.load") == Words.load
    register("ToyAdam", "toy_parts.Adam")
    register("ToyAdam", "toy_parts.Adam")
    assert resolve("ToyAdam") is Adam


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ToyAdm", "not a registered name. Did you mean 'ToyAdam'"),
        ("toy_parts.Adan", "no 'Adan' in it. Did you mean 'Adam'"),
        ("no_such_package.Adam", "no package 'no_such_package'"),
        ("toy_parts.TEMPLATE", "must be a class or a function"),
        (3, "must be a class or a function, got 3"),
    ],
)
def test_an_unknown_type_names_the_nearest(target, message):
    import toy_parts

    assert toy_parts.Adam
    with pytest.raises(ConfigError, match=message):
        resolve(target)
    with pytest.raises(ConfigError, match="already registered"):
        register("ToyAdam", "toy_parts.Momentum")


@pytest.mark.parametrize(("said", "got"), [(None, False), ("0", False), ("1", True)])
def test_remote_code_takes_the_users_own_word(monkeypatch, said, got):
    def load(trust_remote_code: bool) -> bool:
        return trust_remote_code

    monkeypatch.delenv("INLAY_TRUST_REMOTE_CODE", raising=False)
    if said is not None:
        monkeypatch.setenv("INLAY_TRUST_REMOTE_CODE", said)
    assert Builder({}).build({"type": load, "trust_remote_code": True}) is got
    assert Builder({}).build({"type": load, "trust_remote_code": False}) is False


def test_what_needs_remote_code_says_how_to_allow_it(monkeypatch):
    monkeypatch.delenv("INLAY_TRUST_REMOTE_CODE", raising=False)

    def load(trust_remote_code: bool = False) -> None:
        raise ValueError("it holds custom code")

    with pytest.raises(ConfigError, match="INLAY_TRUST_REMOTE_CODE=1"):
        Builder({}).build({"type": load, "trust_remote_code": True})
    with pytest.raises(ConfigError) as error:
        Builder({}).build({"type": load})
    assert "INLAY_TRUST_REMOTE_CODE" not in str(error.value)
