"""Texts beside translations of others: blocks, and each text's part of the excess."""

from __future__ import annotations

import numpy as np
import pytest

from moetrace.analytics.uncertainty.mispairing import Mispairing

RNG = np.random.default_rng


@pytest.mark.parametrize("count", [1, 2, 7, 8, 15, 16, 17, 100])
def test_blocks_hold_every_text_once_and_orders_stay_in_them(count: int) -> None:
    pairing = Mispairing.of_order(np.arange(count), np.arange(count))
    blocks = np.unique(np.stack([pairing.starts, pairing.sizes]), axis=1).T.tolist()
    assert [start for start, _ in blocks] == np.cumsum([0, *(size for _, size in blocks)])[:-1].tolist()
    assert sum(size for _, size in blocks) == count
    assert all(8 <= size <= 15 for _, size in blocks) or count < 16
    place = np.arange(count)
    for shifts in pairing.within_blocks(RNG(0), 50):
        partners = pairing.starts + (place - pairing.starts + shifts) % pairing.sizes
        assert (np.sort(partners, axis=1) == place).all()


def test_a_text_is_paired_with_others_of_its_block() -> None:
    q = np.eye(20, dtype=np.float32)
    pairing = Mispairing.of_order(np.arange(20), np.arange(20))
    assert pairing.sizes.tolist() == [10] * 20
    assert pairing.divergence(q, q, 0).tolist() == [0] * 20
    assert pairing.divergence(q, q, 3) == pytest.approx([np.log(2) / np.log(20)] * 20)
    assert np.isnan(Mispairing.of_order(np.arange(2), np.arange(2)).divergence(q[:2], q[:2], 2)).all()
    assert pairing.mispaired(q, q) == pytest.approx([np.log(2) / np.log(20)] * 20)
    assert np.isnan(Mispairing.of_order(np.arange(1), np.arange(1)).mispaired(q[:1], q[:1])).all()


def drawn_texts(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Profiles [S, 32] of texts and of their translations; some texts are more typical of their language than others.

    Shorter texts are further from each other.
    """
    shortness = np.sort(rng.uniform(0.2, 1.0, count))[::-1, None]
    meant = 0.3 * shortness * rng.normal(size=(count, 32))
    profiles = []
    for language in RNG(5).normal(size=(2, 32)):
        typical = 1 + 0.3 * rng.normal(size=(count, 1))
        logits = typical * language + meant + 0.3 * shortness * rng.normal(size=meant.shape)
        profiles.append((np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32))
    return profiles[0], profiles[1]


@pytest.mark.parametrize("count", [2, 9, 30, 64])
def test_parts_of_the_excess_have_its_mean(count: int) -> None:
    q, pivot_q = drawn_texts(RNG(count), count)
    pairing = Mispairing.of_order(np.arange(count), np.arange(count))
    expected = pairing.mispaired(q, pivot_q).mean() - pairing.divergence(q, pivot_q, 0).mean()
    assert pairing.excess(q, pivot_q).mean() == pytest.approx(expected, abs=1e-12)


def test_parts_of_the_excess_vary_as_the_excess_of_texts_drawn_anew_does() -> None:
    rng, count = RNG(0), 80
    pairing = Mispairing.of_order(np.arange(count), np.arange(count))
    means, errors, of_first_text_alone = [], [], []
    for _ in range(400):
        q, pivot_q = drawn_texts(rng, count)
        parts = pairing.excess(q, pivot_q)
        first = pairing.mispaired(q, pivot_q) - pairing.divergence(q, pivot_q, 0)
        means.append(parts.mean())
        errors.append(parts.std(ddof=1) / count**0.5)
        of_first_text_alone.append(first.std(ddof=1) / count**0.5)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)
    assert np.mean(of_first_text_alone) > 1.7 * np.std(means)


def test_a_text_alone_has_no_excess() -> None:
    one = np.full((1, 4), 0.25, dtype=np.float32)
    assert np.isnan(Mispairing.of_order(np.arange(1), np.arange(1)).excess(one, one)).all()
