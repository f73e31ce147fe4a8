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
--   languages: the languages that are compared to it; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   lang: the language's code, the pivot left out
--   layer: the decoder layer's own index
--   pairs: text ids that both languages have
--   divergence: mean entropy-normalised Jensen-Shannon divergence of the pairs
--   similarity: 1 - divergence
create or replace macro pivot_similarity(pivot_lang := null, languages := null, layers := null) as table
with pivot_language as (
    select
        runs.run,
        coalesce(pivot_lang, runs.pivot_lang) as lang,
        runs.num_experts
    from runs
),

text_pair as (
    select
        text.run,
        text.lang,
        text.seq,
        pivot_language.lang as reference_lang,
        pivot_text.seq as pivot_seq,
        pivot_language.num_experts
    from sequences as text
    inner join pivot_language
        on
            text.run = pivot_language.run
            and text.lang <> pivot_language.lang
    inner join sequences as pivot_text
        on
            text.run = pivot_text.run
            and pivot_language.lang = pivot_text.lang
            and text.text_id = pivot_text.text_id
    where wanted(text.lang, languages)
),

expert as (
    select
        text_pair.run,
        text_pair.lang,
        text_pair.seq,
        text_pair.num_experts,
        q.layer,
        q.probability::double as q,
        pivot_q.probability::double as pivot_q
    from text_pair
    inner join profiles as q
        on
            text_pair.run = q.run
            and text_pair.lang = q.lang
            and text_pair.seq = q.seq
    inner join profiles as pivot_q
        on
            text_pair.run = pivot_q.run
            and text_pair.reference_lang = pivot_q.lang
            and text_pair.pivot_seq = pivot_q.seq
            and q.layer = pivot_q.layer
            and q.expert = pivot_q.expert
    where wanted(q.layer, layers)
),

pair_layer as (
    select
        run,
        lang,
        layer,
        seq,
        num_experts,
        sum(
            (q * ln(greatest(q, 1e-300)) + pivot_q * ln(greatest(pivot_q, 1e-300))) / 2
            - (q + pivot_q) / 2 * ln(greatest((q + pivot_q) / 2, 1e-300))
        ) as jsd,
        ln(num_experts) + sum(q * ln(greatest(q, 1e-300)) + pivot_q * ln(greatest(pivot_q, 1e-300))) / 2 as room
    from expert
    group by
        run,
        lang,
        layer,
        seq,
        num_experts
),

pair_divergence as (
    select
        run,
        lang,
        layer,
        case when room < 1e-8 then 0 else least(greatest(jsd, 0) / room, 1) end as divergence
    from pair_layer
)

select
    run,
    lang,
    layer,
    count(*) as pairs,
    avg(divergence) as divergence,
    1 - avg(divergence) as similarity
from pair_divergence
group by all;
