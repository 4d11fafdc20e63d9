"""Secrets are cut out of text, and nothing else is."""

from __future__ import annotations

import pytest

from inlay.core.secrets import HIDDEN, is_secret_name, redact, redact_tree

CANARY = "c4naryC4naryC4nary99"


@pytest.mark.parametrize(
    "text",
    [
        f"HF_TOKEN={CANARY}",
        f"api_key='{CANARY}'",
        f'{{"password": "{CANARY}"}}',
        f'{{"api-key": "{CANARY}", "lr": 1}}',
        f"hub_token={CANARY} lr=1",
        f"GET /data?split=train&token={CANARY}&x=1",
        f"https://user:{CANARY}@host.example/data.json",
        f"https://{CANARY}@host.example/data.json",
        f"Authorization: Bearer {CANARY}",
        f"a token hf_{CANARY} in a sentence",
        f"ghp_{CANARY}00",
        f"client_secret = '{CANARY}'",
        f"dict(type=load, token='{CANARY}')",
    ],
)
def test_a_secret_is_cut_out(text: str) -> None:
    assert CANARY not in redact(text)
    assert HIDDEN in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "pad_token='<pad>', image_token='<image>', eos_token_id=151645",
        "tokens/s: 1234567890  max_new_tokens: 600  tokens: 12345678",
        "tokenizer = dict(type=AutoTokenizer.from_pretrained)",
        "stop_token=\"<|im_end|>\", token_type='abcdefgh'",
        "sk-learn-is-not-a-key task-aaaaaaaaaaaaaaaaaaaaaaaa hf_internal_testing",
        "see https://huggingface.co/docs@main or mail a@b.example",
        "4f2f09a1b2c3d4e5f60718293a4b5c6d7e8f9012",
        "key='value', monkey='banana banana', num_key_value_heads=4",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_names_in_code_stay() -> None:
    code = "dict(token=read_token_of_mine(), hub_token=my_hub_token)"
    assert redact(code, is_code=True) == code
    assert redact("token='abc'", is_code=True) == f"token='{HIDDEN}'"
    address = "'https://h.example/x?token={}&part=1'"
    assert redact(address.format("abc"), is_code=True) == address.format(HIDDEN)


def test_values_of_variables_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "plainwords")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "plainfalse")
    monkeypatch.setenv("SSH_KEY", "/home/someone/key")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    text = "plainwords plainfalse /home/someone/key abc"
    assert redact(text) == f"{HIDDEN} plainfalse /home/someone/key abc"


def test_a_tree_is_searched_by_its_keys() -> None:
    tree = {
        "hub": {"token": "x1", "repo_id": "me/mine"},
        "paths": [f"https://u:{CANARY}@h.example/x", 3],
        "max_tokens": 5,
        "api_key": "",
    }
    assert redact_tree(tree) == {
        "hub": {"token": HIDDEN, "repo_id": "me/mine"},
        "paths": [f"https://{HIDDEN}@h.example/x", 3],
        "max_tokens": 5,
        "api_key": "",
    }
    assert is_secret_name("WANDB_API_KEY") and not is_secret_name("pad_token")
