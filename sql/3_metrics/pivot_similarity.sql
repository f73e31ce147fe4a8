-- A row is one MoE layer for one language: how alike the router treats a text and its translation in the pivot language,
-- and how much of that is the sentence's own.
--
-- formula: similarity = 1 - mean over the text ids shared with the pivot language of
--   JSD(q_i, q_i') / (ln E - (H(q_i) + H(q_i')) / 2), 0 where that denominator is below 1e-8:
--   the mean of the pairs, not the divergence of the means. mispaired: the same with translations of other texts of about
--   the same length. The n shared texts, ordered by their tokens in the pivot language, then by md5 of the text id, then by
--   the id, are cut into blocks = greatest(1, n // 8) blocks, block = rank * blocks // n (rank from 0), of 8 to 15 texts;
--   derangement r = 1, 2, ... gives the text at place j of a block of s texts the translation of that at (j + r) mod s.
--   A block of s texts has at most s - 1 of them; each text counts once, by the mean of its derangements.
--   excess = similarity - mispaired: what a text and its own translation share beyond script, language and length.
--   Not meaning alone: names, numbers, punctuation and placeholders that a translation copies are in it too
-- range: 0 to 1 (each text is routed like its translation); excess -1 to 1, 0 where the router sees no more than the
--   language; the pivot language itself has no row, nor has a run whose text ids are not parallel
-- source: 2510.04694, eq. 1-2; mispaired and excess are ours
-- needs: profiles, sequences, parallel text ids
-- parameters:
--   pivot_lang: the language to compare to; null = the run's pivot
--   languages: the languages that are compared to it; null = all of the run
--   layers: decoder layers to look at; null = all
--   derangements: how many mispairings are averaged; 0 = none, in half of the time
-- columns:
--   run: the run's name
--   lang: the language's code, the pivot left out
--   layer: the decoder layer's own index
--   pairs: text ids that both languages have
--   divergence: mean entropy-normalised Jensen-Shannon divergence of the pairs
--   similarity: 1 - divergence
--   mispaired: the similarity where texts are paired with translations of other texts; NULL with one text, or 0 derangements
--   excess: similarity - mispaired
create or replace macro pivot_similarity(pivot_lang := null, languages := null, layers := null, derangements := 3) as table
with pivot_language as (
    select
        runs.run,
        coalesce(pivot_lang, runs.pivot_lang) as lang
    from runs
    where runs.parallel
),

shared_text as (
    select
        text.run,
        text.lang,
        text.seq,
        pivot_text.lang as reference_lang,
        pivot_text.seq as pivot_seq,
        row_number() over (
            partition by text.run, text.lang
            order by pivot_text.tokens, md5(text.text_id), text.text_id
        ) - 1 as rank,
        count(*) over (partition by text.run, text.lang) as texts
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

blocked_text as (
    select
        *,
        rank * greatest(1, texts // 8) // texts as block
    from shared_text
),

placed_text as (
    select
        *,
        row_number() over (order by run, lang, rank) as number,
        dense_rank() over (order by run, pivot_seq) as pivot_number
    from blocked_text
),

-- The translations of a block's texts as a list, and a text's place in it.
text_in_block as (
    select
        *,
        list(pivot_number) over of_block as translations,
        row_number() over (partition by run, lang, block order by rank) - 1 as place
    from placed_text
    window of_block as (
        partition by run, lang, block
        order by rank
        rows between unbounded preceding and unbounded following
    )
),

-- Who is compared with whom: shift 0 is a text's own translation, the others are the derangements.
partner as (
    select
        text.run,
        text.lang,
        text.seq,
        text.number,
        shifted.range as shift,
        case
            when shifted.range < len(text.translations)
                then text.translations[1 + (text.place + shifted.range) % len(text.translations)]
        end as pivot_number
    from text_in_block as text
    cross join range(1 + derangements) as shifted
),

pivot_text as (
    select distinct
        run,
        reference_lang as lang,
        pivot_seq as seq,
        pivot_number
    from placed_text
),

-- Numbers in place of names, halves that are never 0 in place of a test, and q ln q once for a text however many partners
-- it has: the join of the two below makes a row per text, partner, layer and expert.
pivot_expert as (
    select
        (pivot_text.pivot_number << 32) + (q.layer::bigint << 16) + q.expert as cell,
        q.probability::double / 2 + 1e-300 as half,
        (q.probability::double / 2 + 1e-300) * ln(q.probability::double + 2e-300) as half_information
    from profiles as q
    inner join pivot_text using (run, lang, seq)
    where
        wanted(q.layer, layers)
        -- What the join says already: without it the other side would be taken for the smaller one, and held in memory.
        and q.lang in (select pivot_language.lang from pivot_language)
        and (pivot_lang is null or q.lang = pivot_lang)
),

text_expert as (
    select
        q.run,
        q.lang,
        q.seq,
        q.layer,
        (q.layer::bigint << 16) + q.expert as layer_cell,
        q.probability::double / 2 + 1e-300 as half,
        (q.probability::double / 2 + 1e-300) * ln(q.probability::double + 2e-300) as half_information
    from profiles as q
    where wanted(q.lang, languages) and wanted(q.layer, layers)
),

text_partner_expert as (
    select
        partner.number,
        partner.shift,
        text_expert.layer,
        (partner.pivot_number << 32) + text_expert.layer_cell as cell,
        text_expert.half,
        text_expert.half_information
    from text_expert
    inner join partner using (run, lang, seq)
),

pair as (
    select
        q.number,
        q.shift,
        q.layer,
        sum(q.half_information + pivot_q.half_information - (q.half + pivot_q.half) * ln(q.half + pivot_q.half)) as jsd,
        sum(q.half_information + pivot_q.half_information) as negative_entropy
    from text_partner_expert as q
    inner join pivot_expert as pivot_q using (cell)
    group by
        q.number,
        q.shift,
        q.layer
),

pair_divergence as (
    select
        text.run,
        text.lang,
        pair.layer,
        pair.shift,
        least(derangements, len(text.translations) - 1) as shifts,
        case
            when ln(runs.num_experts) + pair.negative_entropy < 1e-8 then 0
            else least(greatest(pair.jsd, 0) / (ln(runs.num_experts) + pair.negative_entropy), 1)
        end as divergence
    from pair
    inner join text_in_block as text using (number)
    inner join runs using (run)
),

language_layer as (
    select
        run,
        lang,
        layer,
        count(*) filter (where shift = 0) as pairs,
        avg(divergence) filter (where shift = 0) as divergence,
        sum(divergence / shifts) filter (where shift > 0) / count(*) filter (where shift = 0) as mispaired_divergence
    from pair_divergence
    group by
        run,
        lang,
        layer
)

select
    run,
    lang,
    layer,
    pairs,
    divergence,
    1 - divergence as similarity,
    1 - mispaired_divergence as mispaired,
    mispaired_divergence - divergence as excess
from language_layer;
