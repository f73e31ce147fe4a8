-- A row is one MoE layer for one language: how alike the router treats a text and its translation in the pivot language.
--
-- formula: similarity = 1 - mean over the text ids shared with the pivot language of
--   JSD(q_i, q_i') / (ln E - (H(q_i) + H(q_i')) / 2), 0 where that denominator is below 1e-8:
--   the mean of the pairs, not the divergence of the means
-- range: 0 to 1 (each text is routed like its translation); the pivot language itself has no row
-- source: 2510.04694, eq. 1-2
-- needs: profiles, sequences
-- parameters:
--   pivot_lang: the language to compare to; null = the run's pivot
-- columns:
--   run: the run's name
--   lang: the language's code, the pivot left out
--   layer: the decoder layer's own index
--   pairs: text ids that both languages have
--   divergence: mean entropy-normalised Jensen-Shannon divergence of the pairs
--   similarity: 1 - divergence
create or replace macro pivot_similarity(pivot_lang := null) as table
with pivot_text as (
    select
        text.run,
        text.lang,
        text.seq,
        text.text_id,
        row_number() over ()::integer as pivot_number
    from sequences as text
    inner join runs
        on
            text.run = runs.run
            and text.lang = coalesce(pivot_lang, runs.pivot_lang)
),

text_pair as (
    -- Numbers in place of names: what follows has a row per pair, layer and expert.
    select
        text.run,
        text.lang,
        text.seq,
        pivot_text.pivot_number,
        row_number() over ()::integer as pair_number
    from sequences as text
    inner join pivot_text
        on
            text.run = pivot_text.run
            and text.lang <> pivot_text.lang
            and text.text_id = pivot_text.text_id
),

pivot_expert as (
    select
        pivot_text.pivot_number,
        profiles.layer,
        profiles.expert,
        profiles.probability::double as q
    from profiles
    inner join pivot_text using (run, lang, seq)
),

expert as (
    select
        text_pair.pair_number,
        text_pair.pivot_number,
        profiles.layer,
        profiles.expert,
        profiles.probability::double as q
    from profiles
    inner join text_pair using (run, lang, seq)
),

pair_layer as (
    select
        expert.pair_number,
        expert.layer,
        -sum((expert.q + pivot_expert.q) / 2 * ln(greatest((expert.q + pivot_expert.q) / 2, 1e-300))) as mixture_entropy,
        -sum(
            expert.q * ln(greatest(expert.q, 1e-300)) + pivot_expert.q * ln(greatest(pivot_expert.q, 1e-300))
        ) / 2 as mean_entropy
    from expert
    inner join pivot_expert using (pivot_number, layer, expert)
    group by
        expert.pair_number,
        expert.layer
),

pair_divergence as (
    select
        text_pair.run,
        text_pair.lang,
        pair_layer.layer,
        case
            when ln(runs.num_experts) - pair_layer.mean_entropy < 1e-8 then 0
            else
                greatest(pair_layer.mixture_entropy - pair_layer.mean_entropy, 0)
                / (ln(runs.num_experts) - pair_layer.mean_entropy)
        end as divergence
    from pair_layer
    inner join text_pair using (pair_number)
    inner join runs using (run)
)

select
    run,
    lang,
    layer,
    count(*) as pairs,
    avg(least(divergence, 1)) as divergence,
    1 - avg(least(divergence, 1)) as similarity
from pair_divergence
group by
    run,
    lang,
    layer;
