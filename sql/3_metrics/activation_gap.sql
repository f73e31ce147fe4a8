-- A row is one expert of one MoE layer: how far its main language is ahead of the next.
--
-- formula: gap = largest - second largest p over the languages
-- range: 0 (two languages tie, or nobody uses it) to 1
-- source: 2605.29714
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   expert: logical expert id
--   lang: the language with the largest p, whose expert it is; NULL where the gap is 0: nobody's
--   gap: its lead in p; NULL where there is one language
create or replace macro activation_gap(languages := null, layers := null) as table
with ranked_language as (
    select
        activation.run,
        activation.layer,
        activation.expert,
        activation.lang,
        activation.share,
        row_number() over (
            partition by activation.run, activation.layer, activation.expert
            order by activation.share desc
        ) as place
    from activation
    where wanted(activation.lang, languages) and wanted(activation.layer, layers)
),

expert_lead as (
    select
        run,
        layer,
        expert,
        any_value(lang) filter (where place = 1) as lang,
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
    gap
from expert_lead;
