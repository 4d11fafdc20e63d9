"""Tasks of lm-evaluation-harness and lmms-eval: ours is the model, theirs all else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from inlay.app.evaluate.items import Evaluator, say, wait_for_all
from inlay.app.evaluate.run import harness_of
from inlay.core import dist
from inlay.evaluation import HARNESSES, lm_eval, lmms
from inlay.evaluation.records import Records, read_records

if TYPE_CHECKING:
    from inlay.app.evaluate.answering import Answerer


@dataclass(frozen=True)
class HarnessOptions:
    """How others' tasks are run.

    Attributes:
        limit: documents of each task.
        num_fewshot, include_path: of lm-eval, see ``evaluation.lm_eval``.
        apply_chat_template: of lm-eval: ask in the chat template.
        batch_size: of lm-eval: rows that run at once.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    batch_size: int = 1
    include_path: str | None = None


class Harness:
    """Runs tasks in ``evaluation.HARNESSES``. Several processes share them, and what was answered
    is not asked again.

    Args:
        names: of tasks, with their prefix; looked up at once, before a model is loaded.

    Raises:
        ConfigError: a harness is not installed, or knows no such task.
    """

    def __init__(self, names: Sequence[str], options: HarnessOptions) -> None:
        self.options = options
        self.manager: Any = None
        of_lm, of_lmms = (_names(names, prefix) for prefix in HARNESSES)
        if of_lm:
            self.manager = lm_eval.find_tasks(of_lm, options.include_path)
        if of_lmms:
            lmms.check_tasks(of_lmms)
        self.runner: Evaluator | None = None

    def use(self, runner: Evaluator) -> Harness:
        """Take the model (an ``Answerer``) and the folder of ``runner``."""
        self.runner = runner
        return self

    def run(self, names: Sequence[str], console: Console) -> dict[str, Any]:
        """Run tasks; return task -> metric -> number, nothing in a process that only helps."""
        assert self.runner is not None
        scores: dict[str, Any] = {}
        run: dict[str, Callable[..., dict[str, Any]]] = {"lm:": self._lm, "lmms:": self._lmms}
        for prefix in HARNESSES:
            if own := _names(names, prefix):
                folder = self.runner.folder(prefix.strip(":"), self.options.apply_chat_template)
                if not self.runner.only_helps:
                    say(console, f"results: {folder.absolute()}")
                found = run[prefix](own, self.runner.model, Records(folder, dist.rank()))
                wait_for_all()
                rows = read_records(folder).values()
                for task, metrics in found.items():
                    unasked = [r["problem"] for r in rows if "problem" in r and r["task"] == task]
                    scores[prefix + task] = metrics | ({"not_asked": unasked} if unasked else {})
                    if unasked:
                        say(console, f"{task}: {len(unasked)} questions could not be asked:")
                        say(console, f"  {unasked[0]}")
        return scores

    def _lm(self, names: list[str], answerer: Answerer, records: Records) -> dict[str, Any]:
        from inlay.convert.to_hf import prepare_tokenizer
        from inlay.evaluation.lm_eval_model import InlayLM

        options, session = self.options, answerer.session
        tokenizer = copy.deepcopy(session.tokenizer)
        # A named template becomes the chat template that the harness asks the tokenizer for.
        prepare_tokenizer(tokenizer, answerer.template, answerer.processor)
        model = InlayLM(
            session.llm,
            tokenizer,
            records,
            batch_size=options.batch_size,
            stop_ids=session.stop_ids,
            stop_words=session.stop_words if options.apply_chat_template else (),
        )
        return lm_eval.run_tasks(
            names,
            self.manager,
            model,
            limit=options.limit,
            num_fewshot=options.num_fewshot,
            chat=options.apply_chat_template,
        )

    def _lmms(self, names: list[str], answerer: Answerer, records: Records) -> dict[str, Any]:
        return lmms.run_tasks(names, answerer, answerer.score, records, self.options.limit)


def _names(names: Sequence[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if harness_of(name) == prefix]
