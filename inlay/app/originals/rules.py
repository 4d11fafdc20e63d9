"""All rules: functions of a case that yield what they find, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inlay.app.originals import data_faults, loop_faults, picture_faults, save_faults
from inlay.app.originals.finding import Case, Finding

Rule = Callable[[Case], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    data_faults.lost_tokens,
    data_faults.mixed_samples,
    data_faults.row_faults,
    data_faults.ending,
    data_faults.beginning,
    data_faults.templates,
    data_faults.braces,
    data_faults.unequal_tokens,
    data_faults.code_of_models,
    picture_faults.two_pictures,
    picture_faults.one_sentence,
    picture_faults.two_prompts,
    picture_faults.replaced_narratives,
    picture_faults.frozen_again,
    picture_faults.all_attention,
    loop_faults.warm_up,
    loop_faults.idle_schedules,
    loop_faults.last_window,
    loop_faults.no_validation,
    save_faults.only_checkpoint,
    save_faults.rare_saves,
    save_faults.half_windows,
    save_faults.data_order,
    save_faults.random_state,
    save_faults.data_position,
    save_faults.silent_changes,
    save_faults.moved_folder,
)
