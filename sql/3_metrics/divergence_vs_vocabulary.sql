-- A row is one MoE layer: whether languages that share vocabulary are routed alike there.
--
-- formula: Pearson r over language pairs between `divergence.jsd_normalized` and the two overlaps of
--   `vocabulary_overlap`; NULL below 3 pairs and where either side does not vary (standard deviation below 1e-12)
-- range: -1 (the more vocabulary shared, the less divergence) to 1
-- source: 2605.29714; the formulas of the overlaps are ours
-- needs: usage, tokens
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   pairs: language pairs in the correlation
--   r_type: r of divergence and type_jaccard
--   r_token: r of divergence and token_overlap
create or replace macro divergence_vs_vocabulary(languages := null, layers := null) as table
with layer_pair as (
    select
        pair.run,
        pair.layer,
        count(*) as pairs,
        stddev_pop(pair.jsd_normalized) as divergence_deviation,
        stddev_pop(vocabulary.type_jaccard) as type_deviation,
        stddev_pop(vocabulary.token_overlap) as token_deviation,
        corr(pair.jsd_normalized, vocabulary.type_jaccard) as r_type,
        corr(pair.jsd_normalized, vocabulary.token_overlap) as r_token
    from divergence(languages := languages, layers := layers) as pair
    inner join vocabulary_overlap(languages := languages) as vocabulary using (run, lang_a, lang_b)
    group by all
)

select
    run,
    layer,
    pairs,
    case when pairs > 2 and divergence_deviation > 1e-12 and type_deviation > 1e-12 then r_type end as r_type,
    case when pairs > 2 and divergence_deviation > 1e-12 and token_deviation > 1e-12 then r_token end as r_token
from layer_pair;
