"""Rows to samples: ratings, format, pictures, template, length policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from inlay.core.errors import ConfigError, DataError, InlayError, did_you_mean
from inlay.core.types import IMAGE_MARK, Conversation, ImagePlan, Message, Sample
from inlay.data.chat import ChatEncoder
from inlay.data.json_rows import Row
from inlay.data.pictures import Picture, PictureReader
from inlay.data.ratings import rating_filter
from inlay.data.report import Dropped, Report, TooLongError
from inlay.data.split import content_hash

OVERLONG = ("truncate", "drop", "error")


@dataclass(frozen=True)
class Policy:
    """Which rows become samples.

    Attributes:
        max_length: most tokens of a sample.
        overlong: ``"truncate"``, ``"drop"`` or ``"error"``: what happens to longer ones.
        max_images, max_tiles: most pictures of a sample, and most that the vision encoder sees of
            them; None: any number.
        min_ratings: least rating by name; None: ratings are not looked at.
        verify_images: check that the bytes of pictures are whole.

    Raises:
        ConfigError: a value that cannot be.
    """

    max_length: int
    overlong: str = "truncate"
    max_images: int | None = None
    max_tiles: int | None = None
    min_ratings: Mapping[str, int] | None = None
    verify_images: bool = True

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ConfigError(f"max_length must be 2 or more, got {self.max_length}")
        if self.overlong not in OVERLONG:
            hint = did_you_mean(str(self.overlong), OVERLONG)
            raise ConfigError(
                f"overlong must be one of {', '.join(OVERLONG)}, got {self.overlong!r}.{hint}"
            )
        for name in ("max_images", "max_tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, or None for any, got {value}")

    def identity(self) -> list[Any]:
        """JSON values that tell apart which samples there are; all of them are whole, verified or
        not."""
        ratings = sorted((self.min_ratings or {}).items())
        limits = [self.max_length, self.overlong, self.max_images, self.max_tiles]
        return [*limits, ratings]


@dataclass
class Encoded:
    """Samples of some rows, and the account.

    Attributes:
        samples: of the rows that are kept, in order.
        hashes: 64 bits of each one's text.
        pictures: of each one.
    """

    samples: list[Sample] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    pictures: list[list[Picture]] = field(default_factory=list)
    report: Report = field(default_factory=Report)


class _Read(NamedTuple):
    """A row that holds a conversation."""

    row: Row
    conversation: Conversation
    value: int  # its hash
    pictures: list[Picture]
    plans: list[ImagePlan]
    is_shortened: bool  # by its ratings


@dataclass
class RowEncoder:
    """Turns rows of one source into samples.

    Attributes:
        convert: row value -> conversation, or None for a row that the format drops.
        system: system text of conversations that have none.
        image_folder: where paths of pictures start; None: at the folder of the row's file.
        leave_out: why a conversation with this hash and these picture keys is left out; None where
            it stays.
    """

    convert: Callable[[Any], Conversation | None]
    encoder: ChatEncoder
    policy: Policy
    system: str | None = None
    image_folder: str | None = None
    leave_out: Callable[[int, list[int]], str | None] | None = None

    def __post_init__(self) -> None:
        ratings, processor = self.policy.min_ratings, self.encoder.image_processor
        self._rating = rating_filter(ratings) if ratings else None
        self._reader = PictureReader(processor, self.image_folder) if processor else None

    def __call__(self, rows: Sequence[Row]) -> Encoded:
        """Encode rows in one batch.

        Raises:
            TooLongError: a sample is too long and ``overlong`` is ``"error"``.
            ConfigError: the template cannot be used at all.
        """
        result = Encoded(report=Report(rows=len(rows)))
        found: list[_Read] = []
        for row in rows:
            with result.report.losing(row):
                found.append(self._read(row))
        for one, sample in zip(found, self._encode(found), strict=True):
            with result.report.losing(one.row):
                if isinstance(sample, DataError):
                    raise sample
                result.samples.append(self._fit(one, sample, result.report))
                result.hashes.append(one.value)
                result.pictures.append(one.pictures)
        return result

    def keys(self, row: Row) -> tuple[int, list[int]]:
        """Return the hash of a row's conversation and the keys of its pictures, whose bytes are
        not checked.

        Raises:
            Dropped, DataError: the row holds no conversation, or a picture that cannot be read.
        """
        conversation = self._convert(self._rate(row))
        value = content_hash(conversation)
        return value, [picture.key for picture in self._measure(conversation, row, False)]

    def _read(self, row: Row) -> _Read:
        rated = self._rate(row)
        conversation = self._convert(rated)
        value = content_hash(conversation)
        pictures = self._measure(conversation, row, self.policy.verify_images)
        if self.leave_out is not None:
            reason = self.leave_out(value, [picture.key for picture in pictures])
            if reason is not None:
                raise Dropped(reason)
        plans = self._plan(pictures)
        conversation.images = [picture.ref for picture in pictures]
        if self.system and conversation.text is None and not _has_system(conversation):
            conversation.messages = [Message("system", self.system), *conversation.messages]
        return _Read(row, conversation, value, pictures, plans, rated is not row.value)

    def _rate(self, row: Row) -> Any:
        """The row's value without the turns that are rated too low."""
        if row.problem is not None:
            raise DataError(row.problem)
        value = row.value if self._rating is None else self._rating(row.value)
        if value is None:
            raise Dropped("below min_ratings")
        return value

    def _convert(self, value: Any) -> Conversation:
        try:
            conversation = self.convert(value)
        except InlayError:
            raise
        except Exception as error:  # a user's own function may raise anything
            raise DataError(f"{type(error).__name__}: {error}") from error
        if conversation is None:
            raise Dropped("by its format")
        if problem := _problem(conversation):
            raise DataError(problem)
        return _answered(conversation) if conversation.images else conversation

    def _measure(self, conversation: Conversation, row: Row, verify: bool) -> list[Picture]:
        images, limit = conversation.images, self.policy.max_images
        if not images:
            return []
        if self._reader is None:
            raise DataError("the row has pictures, and the data set has no image_processor")
        if limit is not None and len(images) > limit:
            raise Dropped("more than max_images pictures")
        return self._reader.measure(images, row, verify)

    def _plan(self, pictures: list[Picture]) -> list[ImagePlan]:
        if self._reader is None or not pictures:
            return []
        plans = self._reader.plan(pictures)
        limit = self.policy.max_tiles
        if limit is not None and sum(plan.tiles for plan in plans) > limit:
            raise Dropped("more than max_tiles tiles")
        return plans

    def _encode(self, found: list[_Read]) -> Sequence[Sample | DataError]:
        if any(one.conversation.text is None for one in found):
            self.encoder.check()
        try:
            return self.encoder.encode([x.conversation for x in found], [x.plans for x in found])
        except DataError:
            return [self._encode_one(one) for one in found]

    def _encode_one(self, one: _Read) -> Sample | DataError:
        try:
            return self.encoder.encode([one.conversation], [one.plans])[0]
        except DataError as error:
            return error

    def _fit(self, one: _Read, sample: Sample, report: Report) -> Sample:
        length, limit, overlong = len(sample.ids), self.policy.max_length, self.policy.overlong
        if not sample.mask.any():
            raise DataError("there is no trained token")
        if length > limit:
            if overlong == "drop":
                raise Dropped("longer than max_length")
            if overlong == "error":
                raise TooLongError(
                    f"{one.row.file}, line {one.row.line}: the conversation has {length} tokens, "
                    f"max_length is {limit}. Raise max_length, or set overlong to 'truncate' or "
                    "'drop'."
                )
            if self._end_of_pictures(one, sample) > limit:
                raise Dropped("pictures do not fit max_length")
            sample.ids, sample.mask = sample.ids[:limit], sample.mask[:limit]
            if not sample.mask.any():
                raise Dropped("no trained token after truncation")
            report.truncated += 1
        report.kept += 1
        report.shortened += one.is_shortened
        report.tokens += len(sample.ids)
        report.trained_tokens += int(np.count_nonzero(sample.mask))
        return sample

    def _end_of_pictures(self, one: _Read, sample: Sample) -> int:
        """How many tokens there are up to the end of the last picture's."""
        if not one.plans:
            return 0
        assert self._reader is not None
        token, last = self._reader.processor.image_token_id, one.plans[-1].ids
        behind = last[::-1].index(token)  # its tokens that are no image tokens
        return int(np.flatnonzero(sample.ids == token)[-1]) + 1 + behind


def _answered(conversation: Conversation) -> Conversation:
    """Leave out what follows the last answer, and its pictures.

    Raises:
        DataError: pictures and their places in the text are not equally many.
    """
    messages, text = conversation.messages, conversation.text
    places = [m.content.count(IMAGE_MARK) for m in messages]
    total = sum(places) if text is None else text.count(IMAGE_MARK)
    if total != len(conversation.images):
        raise DataError(
            f"the conversation has {len(conversation.images)} pictures, and its text has places "
            f"for {total}"
        )
    if text is not None:
        return conversation
    last = max(i for i, m in enumerate(messages) if m.role == "assistant") + 1
    return Conversation(messages[:last], None, conversation.images[: sum(places[:last])])


def _problem(conversation: Conversation) -> str | None:
    if conversation.text is not None:
        return None if conversation.text.strip() else "the text is empty"
    roles = [m.role for m in conversation.messages]
    if "assistant" not in roles:
        return f"there is no assistant turn (roles: {', '.join(roles) or 'none'})"
    if not any(m.trained for m in conversation.messages):
        return "no assistant turn is trained"
    return None


def _has_system(conversation: Conversation) -> bool:
    return any(m.role == "system" for m in conversation.messages)
