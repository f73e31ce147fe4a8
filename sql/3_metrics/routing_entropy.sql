-- A row is one MoE layer for one language: how evenly its tokens spread over the experts.
--
-- formula: H(p) = -sum p ln p over the layer's experts, and H(P); normalised: divided by ln E; corrected: H(p) + 1/2
--   sum V(p) / p, V(p) of `shares`: few texts make H(p) too small by that much on average (the delta method, texts
--   drawn independently)
-- range: entropy 0 to ln E, corrected may lie above; normalised 0 (one expert) to 1 (all alike)
-- units: nats
-- source: 2510.04694; 2605.29714; the correction is ours
-- needs: usage
-- parameters:
--   languages: languages to look at; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   entropy: H(p), p the activation share
--   entropy_normalized: H(p) / ln E
--   entropy_corrected: H(p) without its bias; NULL for fewer than two texts, and where sums over texts are unknown
--   probability_entropy: H(P), P the mean router probability; NULL in a run without profiles
--   probability_entropy_normalized: H(P) / ln E
create or replace macro routing_entropy(
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with layer_entropy as (
    select
        used.run,
        used.lang,
        used.layer,
        sum(case when share > 0 then -share * ln(share) else 0 end) as entropy,
        sum(case when share > 0 then variance / share end) / 2 as bias,
        sum(case when probability > 0 then -probability * ln(probability) when probability = 0 then 0 end)
            as probability_entropy
    from
        shares(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
    group by all
)

select
    run,
    lang,
    layer,
    entropy,
    entropy / nullif(ln(runs.num_experts), 0) as entropy_normalized,
    entropy + bias as entropy_corrected,
    probability_entropy,
    probability_entropy / nullif(ln(runs.num_experts), 0) as probability_entropy_normalized
from layer_entropy
inner join runs using (run);
