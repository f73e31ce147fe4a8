-- A row is one MoE layer for one language: how evenly its tokens spread over the experts.
--
-- formula: H(p) = -sum p ln p over the layer's experts, and H(P); normalised: divided by ln E
-- range: entropy 0 to ln E; normalised 0 (one expert) to 1 (all alike)
-- units: nats
-- source: 2510.04694; 2605.29714
-- needs: usage
-- parameters:
--   languages: languages to look at; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   entropy: H(p), p the activation share
--   entropy_normalized: H(p) / ln E
--   probability_entropy: H(P), P the mean router probability; NULL in a run without profiles
--   probability_entropy_normalized: H(P) / ln E
create or replace macro routing_entropy(languages := null, layers := null) as table
with layer_entropy as (
    select
        activation.run,
        activation.lang,
        activation.layer,
        sum(case when share > 0 then -share * ln(share) else 0 end) as entropy,
        sum(case when probability > 0 then -probability * ln(probability) when probability = 0 then 0 end)
            as probability_entropy
    from activation
    where wanted(activation.lang, languages) and wanted(activation.layer, layers)
    group by all
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
