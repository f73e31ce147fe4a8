-- A row is one expert of one MoE layer that is one language's own: that language holds most of its use.
--
-- formula: language_share = p / sum over languages of p, so that corpora of unequal size weigh the same; a row where
--   language_share >= threshold - 1e-12
-- range: language_share threshold to 1; above a threshold of 0.5 an expert has one row at most
-- source: 2601.14050; the default threshold is ours
-- needs: usage
-- parameters:
--   threshold: the least language_share
--   languages: the languages that are compared; null = all of the run; one language alone has a share of 1
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   share: p, tokens routed to the expert / routing decisions of the layer
--   language_share: p / sum over languages of p
create or replace macro exclusive_experts(threshold := 0.5, languages := null, layers := null) as table
with language_expert as (
    select
        activation.run,
        activation.lang,
        activation.layer,
        activation.expert,
        activation.share,
        activation.share / nullif(
            sum(activation.share) over (partition by activation.run, activation.layer, activation.expert), 0
        ) as language_share
    from activation
    where wanted(activation.lang, languages) and wanted(activation.layer, layers)
)

select
    run,
    lang,
    layer,
    expert,
    share,
    language_share
from language_expert
where language_share >= threshold - 1e-12;
