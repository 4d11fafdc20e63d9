"""A language model without weights that repeats the marked words of its prompt, and its page.

``python parrot.py WAITING`` serves it and prints the address.
"""

from __future__ import annotations

import re
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inlay.chat.open import Opened
from inlay.chat.web.service import ChatService, Limits, Settings

MARK = re.compile(r"<<(\w+)>>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
AT_LENGTH = "at length"
"""In the last text: the answer has as many tokens as may be."""


class Parrot:
    """Stands where a causal language model of transformers does.

    Args:
        tokenizer: of bytes.
        delay: seconds that a token takes.
    """

    device = torch.device("cpu")
    training = False

    def __init__(self, tokenizer: Any, delay: float = 0.0) -> None:
        self.tokenizer, self.delay = tokenizer, delay
        self.num_tokens = 0
        text_config = SimpleNamespace(max_position_embeddings=None)
        self.config = SimpleNamespace(get_text_config=lambda: text_config)
        self.generation_config = SimpleNamespace(eos_token_id=tokenizer.eos_token_id)

    def eval(self) -> None: ...

    def train(self, mode: bool) -> None: ...

    def generate(
        self, input_ids: Any, generation_config: Any, stopping_criteria: Any, **_: Any
    ) -> None:
        """Say the marked words of all texts of the prompt, which are the user's and its own."""
        prompt = self.tokenizer.decode(input_ids[0])
        users = re.findall(r"user\n(.*?)<\|im_end\|>", prompt, re.DOTALL)
        said = "heard " + " ".join(word for text in users for word in MARK.findall(text))
        if AT_LENGTH in users[-1]:
            said += " blah" * generation_config.max_new_tokens
        ids = self.tokenizer(said).input_ids[: generation_config.max_new_tokens]
        for token in [*ids, self.tokenizer.eos_token_id]:
            time.sleep(self.delay)
            self.num_tokens += 1
            input_ids = torch.cat([input_ids, torch.tensor([[token]])], dim=1)
            if stopping_criteria(input_ids, None).all():
                return


def byte_tokenizer() -> Any:
    """Return a tokenizer of bytes with ChatML's template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>"]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=special
    )
    fast.chat_template = CHATML
    return fast


def parrot_service(delay: float = 0.0, **limits: Any) -> ChatService:
    """Return a service of a parrot; ``limits``: of ``Limits``."""
    tokenizer = byte_tokenizer()
    opened = Opened(Parrot(tokenizer, delay), tokenizer)
    defaults = Settings(max_new_tokens=2000)
    return ChatService(opened, name="parrot", defaults=defaults, limits=Limits(**limits))


if __name__ == "__main__":
    from inlay.app.serve import free_port, serve

    sys.exit(serve(parrot_service(delay=0.001, waiting=int(sys.argv[1])), free_port(0)))
