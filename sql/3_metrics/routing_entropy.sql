-- A row is one MoE layer for one language: how evenly its tokens spread over the experts.
--
-- formula: H(p) = -sum p ln p over the layer's experts, and H(P); normalised: divided by ln E
-- range: entropy 0 to ln E; normalised 0 (one expert) to 1 (all alike)
-- units: nats
-- source: 2510.04694; 2605.29714
-- needs: usage
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   entropy: H(p), p the activation share
--   entropy_normalized: H(p) / ln E
--   probability_entropy: H(P), P the mean router probability; NULL in a run without profiles
--   probability_entropy_normalized: H(P) / ln E
create or replace view routing_entropy as
with layer_entropy as (
    select
        run,
        lang,
        layer,
        sum(case when share > 0 then -share * ln(share) else 0 end) as entropy,
        sum(case when probability > 0 then -probability * ln(probability) when probability = 0 then 0 end)
            as probability_entropy
    from activation
    group by
        run,
        lang,
        layer
)

select
    run,
    lang,
    layer,
    entropy,
    entropy / nullif(ln(runs.num_experts), 0) as entropy_normalized,
    probability_entropy,
    probability_entropy / nullif(ln(runs.num_experts), 0) as probability_entropy_normalized
from layer_entropy
inner join runs using (run);
