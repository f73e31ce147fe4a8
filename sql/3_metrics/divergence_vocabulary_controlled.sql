-- A row is one pair of languages at one MoE layer: how differently they use the layer's experts for the same token ids.
--
-- formula: both languages' tokens weighted so that each token id v has the same weight in both, w(v) = min(f_a(v), f_b(v)),
--   f the occurrences of v / tokens of known id: p(e) = sum_v w(v) P(e | v, language) / sum_v w(v), P(e | v, language) the
--   share of the routing decisions of the language's tokens of id v that went to e. jsd_controlled = JSD of the two p, as in
--   `divergence`. What is left of jsd is not that the languages have other tokens, but that they use the same ones otherwise
-- range: 0 to ln 2; token_share 0 to 1
-- units: nats
-- source: ours
-- needs: routes, tokens, usage; memory for token ids x experts of a layer: the Python function asks for a layer at a time
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   lang_a: the pair's first language, lang_a < lang_b
--   lang_b: the pair's second language
--   jsd: Jensen-Shannon divergence of all tokens, as in `divergence`
--   jsd_controlled: that of the weighted tokens; NULL where no token id is shared
--   token_share: sum_v w(v), how much of the tokens takes part: token_overlap of `vocabulary_overlap`
create or replace macro divergence_vocabulary_controlled(languages := null, layers := null) as table
with token as (
    select
        token.run,
        token.lang,
        token.shard,
        token.token,
        token.token_id
    from tokens as token
    where token.token_id is not null and wanted(token.lang, languages)
),

unigram as (
    select
        run,
        lang,
        token_id,
        count(*) / sum(count(*)) over (partition by run, lang) as share,
        dense_rank() over (order by run, lang)::integer as language_number
    from token
    group by
        run,
        lang,
        token_id
),

language as (
    select distinct
        run,
        lang,
        language_number
    from unigram
),

-- Numbers in place of names: what follows makes a row per pair, shared token id and expert that it goes to.
pair_token as (
    select
        a.language_number as number_a,
        b.language_number as number_b,
        a.token_id,
        least(a.share, b.share) as weight
    from unigram as a
    inner join unigram as b
        on
            a.run = b.run
            and a.token_id = b.token_id
            and a.language_number < b.language_number
),

side_token as (
    select
        number_a,
        number_b,
        token_id,
        weight,
        unnest([number_a, number_b]) as language_number
    from pair_token
),

token_expert as (
    select
        language.run,
        language.language_number,
        routes.layer,
        token.token_id,
        routes.expert,
        count(*) / sum(count(*)) over (
            partition by language.language_number, routes.layer, token.token_id
        ) as share
    from routes
    inner join token using (run, lang, shard, token)
    inner join language using (run, lang)
    where wanted(routes.lang, languages) and wanted(routes.layer, layers)
    group by
        language.run,
        language.language_number,
        routes.layer,
        token.token_id,
        routes.expert
),

pair_expert as (
    select
        side.number_a,
        side.number_b,
        routed.layer,
        routed.expert,
        coalesce(sum(side.weight * routed.share) filter (where side.language_number = side.number_a), 0) as weight_a,
        coalesce(sum(side.weight * routed.share) filter (where side.language_number = side.number_b), 0) as weight_b
    from side_token as side
    inner join token_expert as routed using (language_number, token_id)
    group by
        side.number_a,
        side.number_b,
        routed.layer,
        routed.expert
),

pair_share as (
    select
        *,
        weight_a / sum(weight_a) over of_layer as share_a,
        weight_b / sum(weight_b) over of_layer as share_b
    from pair_expert
    window of_layer as (partition by number_a, number_b, layer)
),

controlled as (
    select
        number_a,
        number_b,
        layer,
        sum(
            (share_a * ln(greatest(share_a, 1e-300)) + share_b * ln(greatest(share_b, 1e-300))) / 2
            - (share_a + share_b) / 2 * ln((share_a + share_b) / 2)
        ) as jsd
    from pair_share
    group by
        number_a,
        number_b,
        layer
),

pair_overlap as (
    select
        number_a,
        number_b,
        sum(weight) as token_share
    from pair_token
    group by
        number_a,
        number_b
),

routed_layer as (
    select distinct
        run,
        layer
    from token_expert
)

-- What the comparison cuts off is rounding; greatest() would make 0 of a missing divergence.
select
    divergent.run,
    divergent.layer,
    divergent.lang_a,
    divergent.lang_b,
    divergent.jsd,
    if(controlled.jsd < 0, 0, controlled.jsd) as jsd_controlled,
    least(coalesce(pair_overlap.token_share, 0), 1)::double as token_share
from divergence(languages := languages, layers := layers) as divergent
inner join routed_layer using (run, layer)
inner join language as a
    on
        divergent.run = a.run
        and divergent.lang_a = a.lang
inner join language as b
    on
        divergent.run = b.run
        and divergent.lang_b = b.lang
left join pair_overlap
    on
        a.language_number = pair_overlap.number_a
        and b.language_number = pair_overlap.number_b
left join controlled
    on
        a.language_number = controlled.number_a
        and b.language_number = controlled.number_b
        and divergent.layer = controlled.layer;
