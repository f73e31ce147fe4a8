-- A row is one expert of one MoE layer in one shard, experts that were never used included.
--
-- formula: sums over the shard; they add up over shards, machines and runs
-- range: count 0 to T; a shard's counts of a layer sum to T k
-- units: tokens (count), gate weight (weight_sum), texts (the sequence_* sums), tokens (probability_sum)
-- source: ours
-- needs: usage
-- columns:
--   run: the run's name
--   lang: the language's code
--   shard: the shard
--   layer: the decoder layer's own index
--   expert: logical expert id
--   count: tokens routed to the expert
--   weight_sum: sum of the applied gate weights
--   sequence_share_sum: sum over texts of count / (tokens k)
--   probability_sum: sum over tokens of the full router probability; NULL in a run without profiles
--   sequence_probability_sum: sum over texts of their mean router probability; NULL in a run without profiles
--   count_squared_sum: sum over texts of count squared; NULL in counts alone and in shards of a format before 5
--   count_decisions_sum: sum over texts of count * tokens k; NULL in the same shards
create or replace view usage as
select
    run,
    lang,
    shard,
    layer,
    expert,
    count,
    weight_sum,
    sequence_share_sum,
    probability_sum,
    sequence_probability_sum,
    count_squared_sum,
    count_decisions_sum
from files.usage;
