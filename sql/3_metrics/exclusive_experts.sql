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
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   count: the language's tokens routed to the expert
--   share: p, tokens routed to the expert / routing decisions of the layer
--   language_share: p / sum over languages of p
create or replace macro exclusive_experts(
    threshold := 0.5,
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with language_expert as (
    select
        used.run,
        used.lang,
        used.layer,
        used.expert,
        used.count,
        used.share,
        used.share / nullif(
            sum(used.share) over (partition by used.run, used.layer, used.expert), 0
        ) as language_share
    from
        shares(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
)

select
    run,
    lang,
    layer,
    expert,
    count,
    share,
    language_share
from language_expert
where language_share >= threshold - 1e-12;
