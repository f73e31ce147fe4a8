-- A row is one expert of one MoE layer for one language: `usage` added up over shards, read once when a store is opened.
--
-- formula: sums of `usage` over the language's shards, NULL where one of them lacks the column; tokens = T of those
--   shards
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
--   count_squared_sum: sum over texts of the square of their count
--   count_decisions_sum: sum over texts of count * tokens k
create or replace table usage_by_language as
with language_expert as (
    select
        run,
        lang,
        layer,
        expert,
        sum(count)::bigint as count,
        case when count(weight_sum) = count(*) then sum(weight_sum) end as weight_sum,
        case when count(sequence_share_sum) = count(*) then sum(sequence_share_sum) end as sequence_share_sum,
        case when count(probability_sum) = count(*) then sum(probability_sum) end as probability_sum,
        case when count(sequence_probability_sum) = count(*) then sum(sequence_probability_sum) end
            as sequence_probability_sum,
        case when count(count_squared_sum) = count(*) then sum(count_squared_sum) end as count_squared_sum,
        case when count(count_decisions_sum) = count(*) then sum(count_decisions_sum) end as count_decisions_sum
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
    sequence_probability_sum,
    count_squared_sum,
    count_decisions_sum
from language_expert
inner join languages using (run, lang)
-- In one order, however many shards it was added up from: what is sorted or joined later takes the same time.
order by
    run,
    lang,
    layer,
    expert;
