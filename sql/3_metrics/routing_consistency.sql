-- A row is one MoE layer for one language: how many experts a token shares with the token before it.
--
-- formula: mean over all tokens but the first of each text of |A and B| / |A or B|, A and B the sets of experts that the
--   token and the one at the position before were sent to
-- range: 0 (no expert stays) to 1 (the same experts for a whole text); no row where every text is of one token
-- source: after 2510.04694
-- needs: routes, tokens; memory for tokens x layers: the Python function asks for a language, and some layers, at a time
-- parameters:
--   languages: languages to look at; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   consistency: mean intersection over union
create or replace macro routing_consistency(languages := null, layers := null) as table
with
-- A place is one number for text and position: what follows it, and nothing else, is at place + 1.
place as (
    select
        token.run,
        token.lang,
        token.shard,
        token.token,
        dense_rank() over (order by token.run, token.lang)::integer as language_number,
        dense_rank() over (order by token.run, token.lang, token.seq) * 4294967296 + token.position as place
    from tokens as token
    where wanted(token.lang, languages)
),

placed_token as (
    select
        *,
        lag(place) over (order by place) = place - 1 as follows
    from place
),

language as (
    select
        run,
        lang,
        language_number
    from place
    group by all
),

member as (
    select
        routes.layer,
        routes.expert,
        placed_token.language_number,
        placed_token.place,
        placed_token.follows
    from routes
    inner join placed_token using (run, lang, shard, token)
    where wanted(routes.lang, languages) and wanted(routes.layer, layers)
),

token_layer as (
    select
        token.language_number,
        token.layer,
        token.place,
        count(before.expert) as shared
    from member as token
    left join member as before
        on
            token.layer = before.layer
            and token.expert = before.expert
            and token.place = before.place + 1
    where token.follows
    group by
        token.language_number,
        token.layer,
        token.place
)

select
    language.run,
    language.lang,
    token_layer.layer,
    avg(token_layer.shared / (2 * runs.top_k - token_layer.shared)) as consistency
from token_layer
inner join language using (language_number)
inner join runs using (run)
group by all;
