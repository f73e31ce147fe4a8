-- A row is one expert of one MoE layer: how far its main language is ahead of the next.
--
-- formula: gap = largest - second largest p over the languages
-- range: 0 (two languages tie, or nobody uses it) to 1
-- source: 2605.29714
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   expert: logical expert id
--   lang: the language with the largest p, whose expert it is; NULL where the gap is 0: nobody's
--   count: that language's tokens routed to the expert; NULL where it is nobody's
--   gap: its lead in p; NULL where there is one language
create or replace macro activation_gap(
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with ranked_language as (
    select
        used.run,
        used.layer,
        used.expert,
        used.lang,
        used.count,
        used.share,
        row_number() over (
            partition by used.run, used.layer, used.expert
            order by used.share desc
        ) as place
    from
        shares(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
),

expert_lead as (
    select
        run,
        layer,
        expert,
        any_value(lang) filter (where place = 1) as lang,
        any_value(count) filter (where place = 1) as count,
        any_value(share) filter (where place = 1) - any_value(share) filter (where place = 2) as gap
    from ranked_language
    where place <= 2
    group by
        run,
        layer,
        expert
)

select
    run,
    layer,
    expert,
    if(gap > 0, lang, null) as lang,
    if(gap > 0, count, null) as count,
    gap
from expert_lead;
