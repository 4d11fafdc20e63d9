from __future__ import annotations

import itertools

import numpy as np
import pytest

from inlay.core.types import Conversation, ImageRef, Message
from inlay.data.split import content_hash, held_out, split_groups, stream_key

NO_KEYS = np.empty(0, np.uint64)


def random_bits(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def csr(samples):
    """Keys of every sample, as ``split_groups`` takes them."""
    flat = np.array(list(itertools.chain.from_iterable(samples)), np.uint64)
    return flat, np.cumsum([len(keys) for keys in samples])


def groups_by_search(hashes, samples):
    """Groups by walking from sample to sample."""
    holders = {}
    for sample, keys in enumerate(samples):
        for key in [("text", int(hashes[sample])), *(("image", int(k)) for k in keys)]:
            holders.setdefault(key, []).append(sample)
    near = {sample: set() for sample in range(len(samples))}
    for members in holders.values():
        for member in members:
            near[member] |= set(members)
    group, found = {}, 0
    for start in near:
        if start in group:
            continue
        todo = [start]
        while todo:
            sample = todo.pop()
            if sample not in group:
                group[sample] = found
                todo += near[sample]
        found += 1
    return [group[sample] for sample in near]


def asked(question, *images):
    messages = [Message("user", question), Message("assistant", "A", True)]
    return Conversation(messages, images=list(images))


def test_content_hash_covers_pictures():
    pictures = [[], ["a"], ["b"], ["a", "b"], ["b", "a"], [b"a"], [b"b"]]
    refs = [
        [ImageRef(p) if isinstance(p, str) else ImageRef(data=p) for p in row] for row in pictures
    ]
    assert len({content_hash(asked("Q", *row)) for row in refs}) == len(pictures)
    view = asked("Q", ImageRef(data=memoryview(b"a"), place="elsewhere"))
    assert content_hash(view) == content_hash(asked("Q", ImageRef(data=b"a")))


def test_content_hash_of_texts_has_not_changed():
    """Those of earlier versions, by which data were split and cached."""
    assert content_hash(asked(" Q\n")) == 7153808295262923799
    assert content_hash(Conversation(text="T ")) == 12383953904858629309


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 1])
def test_texts_are_split_as_ever(fraction):
    hashes = random_bits(5000)
    keys = NO_KEYS, np.zeros(5000, np.int64)
    assert np.array_equal(split_groups(hashes, keys, fraction), held_out(hashes, fraction))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("option", [{"fraction": 0.3}, {"size": 60}])
def test_what_shares_a_picture_or_its_text_stays_together(seed, option):
    random = np.random.default_rng(seed)
    pool = random_bits(600, seed)
    samples = [random.choice(pool, random.integers(0, 4)).tolist() for _ in range(200)]
    hashes = random.choice(random_bits(190, seed + 99), 200)
    sides = split_groups(hashes, csr(samples), **option)
    by_group = {}
    for group, side in zip(groups_by_search(hashes, samples), sides.tolist(), strict=True):
        by_group.setdefault(group, set()).add(side)
    assert len(by_group) > 10
    assert all(len(found) == 1 for found in by_group.values())
    assert set().union(*by_group.values()) == {False, True}


def test_a_long_chain_is_one_group():
    pictures = random_bits(20_001)
    keys = np.stack([pictures[:-1], pictures[1:]], 1).ravel()
    ends = np.arange(2, 40_001, 2)
    sides = split_groups(random_bits(20_000, 1), (keys, ends), size=1)
    assert sides.all()


@pytest.mark.parametrize("per_picture", [1, 8])
@pytest.mark.parametrize("pictures_each", [1, 3])
def test_the_share_does_not_depend_on_the_size_of_groups(per_picture, pictures_each):
    count = 8000
    own = random_bits(count * pictures_each).reshape(count, pictures_each)
    keys = np.repeat(own, per_picture, axis=0)
    ends = np.arange(1, len(keys) + 1) * pictures_each
    sides = split_groups(random_bits(len(keys), 1), (keys.ravel(), ends), fraction=0.1)
    assert 0.09 < sides.mean() < 0.11


def test_conversations_that_are_added_about_the_same_pictures_move_nothing():
    pictures = random_bits(500)
    keys = np.concatenate([pictures, pictures])
    before = split_groups(random_bits(500, 1), (pictures, np.arange(1, 501)), 0.2)
    after = split_groups(random_bits(1000, 1), (keys, np.arange(1, 1001)), 0.2)
    assert np.array_equal(before, after[:500])
    assert np.array_equal(before, after[500:])


def test_streams_decide_alike():
    hashes = random_bits(2000)
    pool = random_bits(300, 1)
    random = np.random.default_rng(0)
    samples = [random.choice(pool, random.integers(0, 2)).tolist() for _ in range(2000)]
    streamed = [stream_key(int(h), keys) for h, keys in zip(hashes, samples, strict=True)]
    indexed = split_groups(hashes, csr(samples), 0.3)
    assert np.array_equal(indexed, held_out(np.array(streamed, np.uint64), 0.3))


def test_size_is_reached_and_a_frequent_picture_does_not_take_all():
    own = random_bits(300)
    keys = np.concatenate([np.repeat(own[:1], 1000), np.repeat(own[1:], 3)])
    hashes = random_bits(len(keys), 1)
    sides = split_groups(hashes, (keys, np.arange(1, len(keys) + 1)), size=50)
    assert sides.sum() == 51
    assert not sides[:1000].any()
    most = split_groups(hashes, (keys, np.arange(1, len(keys) + 1)), size=900)
    assert most.sum() >= 900
    assert not split_groups(hashes, (keys, np.arange(1, len(keys) + 1)), size=0).any()
    assert split_groups(hashes, (keys, np.arange(1, len(keys) + 1)), size=10_000).all()


def test_nothing_and_mistakes():
    assert split_groups(NO_KEYS, (NO_KEYS, np.empty(0, int)), size=3).tolist() == []
    for options in ({}, {"fraction": 0.1, "size": 3}):
        with pytest.raises(ValueError, match="either"):
            split_groups(NO_KEYS, (NO_KEYS, np.empty(0, int)), **options)
