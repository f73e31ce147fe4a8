-- A row is one expert of one MoE layer for one language: `usage` added up over shards, read once when a store is opened.
--
-- formula: sums of `usage` over the language's shards; tokens = T of those shards
-- range: count 0 to T; a layer's counts sum to T k
-- units: as in `usage`
-- source: ours
-- needs: usage
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   tokens: T, tokens traced
--   sequences: texts traced
--   count: tokens routed to the expert
--   weight_sum: sum of the applied gate weights
--   sequence_share_sum: sum over texts of count / (tokens k)
--   probability_sum: sum over tokens of the full router probability
--   sequence_probability_sum: sum over texts of their mean router probability
create or replace table usage_by_language as
with language_expert as (
    select
        run,
        lang,
        layer,
        expert,
        sum(count)::bigint as count,
        sum(weight_sum) as weight_sum,
        sum(sequence_share_sum) as sequence_share_sum,
        sum(probability_sum) as probability_sum,
        sum(sequence_probability_sum) as sequence_probability_sum
    from files.rollups
    group by
        run,
        lang,
        layer,
        expert
)

select
    run,
    lang,
    layer,
    expert,
    languages.tokens,
    languages.sequences,
    count,
    weight_sum,
    sequence_share_sum,
    probability_sum,
    sequence_probability_sum
from language_expert
inner join languages using (run, lang)
-- In one order, however many shards it was added up from: what is sorted or joined later takes the same time.
order by
    run,
    lang,
    layer,
    expert;
