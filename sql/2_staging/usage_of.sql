-- A row is one expert of one MoE layer for one language: `usage_by_language`, or the same of some tokens alone.
--
-- formula: the roll-ups where no token is left out; else sums over the routes of the tokens that are kept, T and the
--   number of texts being those of the tokens that are kept
-- range: count 0 to T; a layer's counts sum to T k, or nearly so in an import; a language of which no token is kept has
--   no rows. A run that does not say which tokens are special (skip_special), or whose text ids are not the same across
--   languages (shared_texts), has no rows either, and where that leaves no run it is an error
-- units: as in `usage`
-- source: ours
-- needs: usage
-- parameters:
--   languages: languages to look at; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens, `runs.special_token_ids`; a token of unknown id stays
--   shared_texts: whether to leave out texts whose id not every compared language has; needs sequences too
--   compared: the languages that shared_texts compares; null = `languages`
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   tokens: T
--   sequences: texts
--   count: tokens routed to the expert
--   weight_sum: sum of the applied gate weights
--   probability_sum: sum over tokens of the full router probability; NULL where tokens are left out
--   count_squared_sum: sum over texts of c^2, c the text's tokens routed to the expert; NULL where unknown
--   count_decisions_sum: sum over texts of c t, t the text's routing decisions in the layer; NULL where unknown
create or replace macro usage_of(
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false,
    compared := null
) as table
with able as (
    select
        bool_or(special_token_ids is not null) as special,
        bool_or(parallel) as parallel
    from runs
    where list_contains(tables, 'routes')
),

compared_language as (
    select
        language.run,
        count(*) as number
    from languages as language
    where wanted(language.lang, coalesce(compared, languages))
    group by language.run
),

shared_text as (
    select
        text.run,
        text.text_id
    from query_table(if(shared_texts, 'sequences', 'unread')) as text
    inner join compared_language using (run)
    where wanted(text.lang, coalesce(compared, languages))
    group by
        text.run,
        text.text_id,
        compared_language.number
    having count(distinct text.lang) = compared_language.number
),

kept_text as (
    select
        text.run,
        text.lang,
        text.seq
    from query_table(if(shared_texts, 'sequences', 'unread')) as text
    inner join shared_text using (run, text_id)
    where wanted(text.lang, languages)
),

kept_token as (
    select
        token.run,
        token.lang,
        token.shard,
        token.token,
        token.seq,
        runs.top_k
    from
        query_table(
            if(leaves_out(prompt_only, skip_positions, skip_special, shared_texts), 'tokens', 'unread')
        ) as token
    inner join runs using (run)
    cross join able
    left join kept_text
        on
            token.run = kept_text.run
            and token.lang = kept_text.lang
            and token.seq = kept_text.seq
    where
        list_contains(runs.tables, 'routes')
        and wanted(token.lang, languages)
        and not (coalesce(prompt_only, false) and token.generated)
        and token.position >= coalesce(skip_positions, 0)
        and case
            when not coalesce(skip_special, false) then true
            when runs.special_token_ids is not null
                then not coalesce(list_contains(runs.special_token_ids, token.token_id), false)
            when able.special then false
            else
                error(
                    'run ''' || token.run || ''' does not say which token ids are special: trace it again, or leave '
                    || 'skip_special out'
                )
        end
        and case
            when not coalesce(shared_texts, false) then true
            when runs.parallel then kept_text.seq is not null
            when able.parallel then false
            else
                error(
                    'run ''' || token.run || ''' has text ids that are not the same across languages: leave '
                    || 'shared_texts out'
                )
        end
),

text as (
    select
        run,
        lang,
        seq,
        count(*) as text_tokens,
        count(*) * any_value(top_k) as text_decisions
    from kept_token
    group by
        run,
        lang,
        seq
),

text_expert as (
    select
        token.run,
        token.lang,
        token.seq,
        routes.layer,
        routes.expert,
        count(*) as text_count,
        sum(routes.weight::double) as text_weight
    from
        query_table(
            if(leaves_out(prompt_only, skip_positions, skip_special, shared_texts), 'routes', 'unread')
        ) as routes
    inner join kept_token as token using (run, lang, shard, token)
    where wanted(routes.lang, languages) and wanted(routes.layer, layers)
    group by
        token.run,
        token.lang,
        token.seq,
        routes.layer,
        routes.expert
),

language_expert as (
    select
        run,
        lang,
        layer,
        expert,
        sum(text_count) as expert_count,
        sum(text_weight) as weight_sum,
        sum(text_count * text_count) as count_squared_sum,
        sum(text_count * text_decisions) as count_decisions_sum
    from text_expert
    inner join text using (run, lang, seq)
    group by
        run,
        lang,
        layer,
        expert
),

language_kept as (
    select
        run,
        lang,
        sum(text_tokens)::bigint as tokens,
        count(*) as sequences
    from text
    group by
        run,
        lang
)

select
    used.run,
    used.lang,
    used.layer,
    used.expert,
    used.tokens,
    used.sequences,
    used.count,
    used.weight_sum,
    used.probability_sum,
    used.count_squared_sum,
    used.count_decisions_sum
from usage_by_language as used
where
    not leaves_out(prompt_only, skip_positions, skip_special, shared_texts)
    and wanted(used.lang, languages)
    and wanted(used.layer, layers)
union all
select
    cell.run,
    cell.lang,
    cell.layer,
    cell.expert,
    language_kept.tokens,
    language_kept.sequences,
    coalesce(language_expert.expert_count, 0)::bigint as count,
    coalesce(language_expert.weight_sum, 0) as weight_sum,
    null::double as probability_sum,
    coalesce(language_expert.count_squared_sum, 0)::double as count_squared_sum,
    coalesce(language_expert.count_decisions_sum, 0)::double as count_decisions_sum
from usage_by_language as cell
inner join language_kept using (run, lang)
left join language_expert using (run, lang, layer, expert)
where
    leaves_out(prompt_only, skip_positions, skip_special, shared_texts)
    and wanted(cell.lang, languages)
    and wanted(cell.layer, layers);
