-- A row is one MoE layer for one language of two runs over the same texts: how alike they route the same tokens. Two runs
-- are two engines, versions, precisions or stages of one model.
--
-- formula: over the tokens that both runs have at the same position of the same text id, the token ids equal:
--   equal_sets = share of tokens whose sets of k experts are the same; overlap = mean of |A and B| / k; weight errors: of
--   |w_a - w_b| over the experts that both chose
-- range: equal_sets and overlap 0 to 1, equal_sets at most overlap; weight errors from 0
-- source: ours
-- needs: routes, tokens, sequences
-- parameters:
--   run_a: a run; null = every run
--   run_b: another run, of as many experts a token; null = every run whose name comes later
--   languages: the languages to look at; null = all
--   layers: decoder layers to look at; null = all
-- columns:
--   run_a: the first run
--   run_b: the other run
--   lang: the language's code
--   layer: the decoder layer's own index, of layers that both runs have
--   tokens: tokens that are compared
--   other_tokens: positions that both runs have, with different tokens: they are not compared
--   equal_sets: share of tokens for which both choose the same experts
--   overlap: mean share of a token's experts that both choose
--   weight_error: mean difference of the gate weights of experts that both choose; NULL where there are none
--   largest_weight_error: the largest of them
create or replace macro route_agreement(
    run_a := null,
    run_b := null,
    languages := null,
    layers := null
) as table
with run_pair as (
    select
        a.run as first_run,
        b.run as second_run,
        a.top_k
    from runs as a
    inner join runs as b
        on
            a.top_k = b.top_k
            and (run_a is null or a.run = run_a)
            and if(run_b is null, b.run > a.run, b.run = run_b)
            and a.run <> b.run
),

place as (
    select
        text.run,
        text.lang,
        text.text_id,
        token.position,
        token.token_id,
        token.shard,
        token.token
    from sequences as text
    inner join tokens as token using (run, lang, shard, seq)
    where wanted(text.lang, languages)
),

place_pair as (
    select
        run_pair.first_run,
        run_pair.second_run,
        a.lang,
        a.shard as first_shard,
        a.token as first_token,
        b.shard as second_shard,
        b.token as second_token,
        a.token_id is not distinct from b.token_id as same_token
    from run_pair
    inner join place as a
        on run_pair.first_run = a.run
    inner join place as b
        on
            run_pair.second_run = b.run
            and a.lang = b.lang
            and a.text_id = b.text_id
            and a.position = b.position
),

language_pair as (
    select
        first_run,
        second_run,
        lang,
        count(*) filter (where same_token) as tokens,
        count(*) filter (where not same_token) as other_tokens
    from place_pair
    group by
        first_run,
        second_run,
        lang
),

compared as (
    select
        *,
        row_number() over (order by first_run, second_run, lang, first_shard, first_token) as number
    from place_pair
    where same_token
),

compared_token as (
    select
        number,
        true as of_first,
        first_run as run,
        lang,
        first_shard as shard,
        first_token as token
    from compared
    union all
    select
        number,
        false as of_first,
        second_run as run,
        lang,
        second_shard as shard,
        second_token as token
    from compared
),

decision as (
    select
        compared_token.number,
        compared_token.of_first,
        routes.layer,
        routes.expert,
        routes.weight
    from routes
    inner join compared_token using (run, lang, shard, token)
    where wanted(routes.layer, layers)
),

token_layer as (
    select
        a.number,
        a.layer,
        count(*) as shared,
        sum(abs(a.weight::double - b.weight::double)) as weight_errors,
        max(abs(a.weight::double - b.weight::double)) as largest_weight_error
    from decision as a
    inner join decision as b using (number, layer, expert)
    where a.of_first and not b.of_first
    group by
        a.number,
        a.layer
),

shared_layer as (
    select
        run_pair.first_run,
        run_pair.second_run,
        run_pair.top_k,
        a.layer
    from run_pair
    inner join moe_layers as a
        on run_pair.first_run = a.run
    inner join moe_layers as b
        on
            run_pair.second_run = b.run
            and a.layer = b.layer
    where wanted(a.layer, layers)
),

layer_agreement as (
    select
        compared.first_run,
        compared.second_run,
        compared.lang,
        token_layer.layer,
        count(*) filter (where token_layer.shared = run_pair.top_k) as equal_sets,
        sum(token_layer.shared) as shared,
        sum(token_layer.weight_errors) as weight_errors,
        max(token_layer.largest_weight_error) as largest_weight_error
    from token_layer
    inner join compared using (number)
    inner join run_pair using (first_run, second_run)
    group by
        compared.first_run,
        compared.second_run,
        compared.lang,
        token_layer.layer
)

select
    shared_layer.first_run as run_a,
    shared_layer.second_run as run_b,
    language_pair.lang,
    shared_layer.layer,
    language_pair.tokens,
    language_pair.other_tokens,
    case when language_pair.tokens > 0 then coalesce(found.equal_sets, 0) / language_pair.tokens end as equal_sets,
    case when language_pair.tokens > 0 then coalesce(found.shared, 0) / (language_pair.tokens * shared_layer.top_k) end
        as overlap,
    found.weight_errors / found.shared as weight_error,
    found.largest_weight_error
from shared_layer
inner join language_pair using (first_run, second_run)
left join layer_agreement as found using (first_run, second_run, lang, layer);
