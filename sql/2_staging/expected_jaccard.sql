-- A value is the mean jaccard of two sets of `size` of `pool` experts, each drawn at random by itself.
--
-- formula: sum over s of s / (2 size - s) P(s), with P(s) = C(size, s) C(pool - size, size - s) / C(pool, size), the
--   hypergeometric chance that they share s, made of logarithms of factorials
-- range: above 0 to 1 (size = pool)
-- source: ours
-- needs: nothing of the store
-- parameters:
--   size: members of each set, at most pool
--   pool: experts that they are drawn from
create or replace macro expected_jaccard(size, pool) as (
    list_sum(
        [
            shared / (2 * size - shared) * exp(
                2 * (lgamma(size + 1) + lgamma(pool - size + 1) - lgamma(size - shared + 1))
                - lgamma(shared + 1) - lgamma(pool - 2 * size + shared + 1) - lgamma(pool + 1)
            )
            for shared in range(greatest(2 * size - pool, 0), size + 1)
        ]
    )
);
