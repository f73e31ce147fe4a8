-- A row is one expert of one MoE layer for one language: how often it is used, and with what weight.
--
-- formula: a = count / T; p = count / (T k); P = mean over the language's tokens of the full router probability
-- range: a and p 0 to 1; over a layer's experts a sums to k, p, weight_share and P to 1
-- source: RISE, 2604.03592 (a)
-- needs: usage
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   frequency: a, tokens routed to the expert / tokens
--   share: p, tokens routed to the expert / routing decisions of the layer
--   weight_mean: mean applied gate weight of the tokens routed to it; NULL where there are none
--   weight_share: its part of the sum of the layer's applied gate weights
--   probability: P, its mean router probability before top-k; NULL in a run without profiles
create or replace view activation as
with layer_weight as (
    select
        run,
        lang,
        layer,
        sum(weight_sum) as weight_sum
    from usage_by_language
    group by
        run,
        lang,
        layer
)

select
    used.run,
    used.lang,
    used.layer,
    used.expert,
    used.count / used.tokens as frequency,
    used.count / (used.tokens * runs.top_k) as share,
    used.weight_sum / nullif(used.count, 0) as weight_mean,
    used.weight_sum / nullif(layer_weight.weight_sum, 0) as weight_share,
    used.probability_sum / used.tokens as probability
from usage_by_language as used
inner join runs using (run)
inner join layer_weight using (run, lang, layer);
