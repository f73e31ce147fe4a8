-- A row is one pair of languages: how much of their vocabulary, as the tokenizer cuts it, they share.
--
-- formula: type_jaccard = |A and B| / |A or B|, A and B the token ids that occur; token_overlap = sum over token ids of
--   the smaller of the two shares, a share being occurrences / tokens. Tokens the model generated count, as they do in
--   the routing that this is compared to; tokens of unknown id do not
-- range: 0 (no token id shared) to 1; a language of which no token id is known has no rows
-- source: 2605.29714; the formulas are ours
-- needs: tokens
-- parameters:
--   languages: the languages that are compared; null = all of the run
-- columns:
--   run: the run's name
--   lang_a: the pair's first language, lang_a < lang_b
--   lang_b: the pair's second language
--   type_jaccard: shared token ids / token ids of either
--   token_overlap: the part of the tokens that the two have in common
create or replace macro vocabulary_overlap(languages := null) as table
with unigram as (
    select
        token.run,
        token.lang,
        token.token_id,
        count(*) as occurrences
    from tokens as token
    where token.token_id is not null and wanted(token.lang, languages)
    group by all
),

-- Numbers in place of names: the join below makes a row per pair and token id they share.
language as (
    select
        run,
        lang,
        dense_rank() over (order by run)::integer as run_number,
        row_number() over (order by run, lang)::integer as language_number,
        count(*) as types,
        sum(occurrences) as tokens
    from unigram
    group by
        run,
        lang
),

type as (
    select
        language.run_number,
        language.language_number,
        unigram.token_id,
        unigram.occurrences / language.tokens as share
    from unigram
    inner join language using (run, lang)
),

pair_with_shared_types as (
    select
        a.language_number as number_a,
        b.language_number as number_b,
        count(*) as shared_types,
        sum(least(a.share, b.share)) as shared_tokens
    from type as a
    inner join type as b
        on
            a.run_number = b.run_number
            and a.token_id = b.token_id
            and a.language_number < b.language_number
    group by
        a.language_number,
        b.language_number
)

select
    a.run,
    a.lang as lang_a,
    b.lang as lang_b,
    coalesce(shared_types, 0) / (a.types + b.types - coalesce(shared_types, 0)) as type_jaccard,
    least(coalesce(shared_tokens, 0), 1)::double as token_overlap
from language as a
inner join language as b
    on
        a.run = b.run
        and a.lang < b.lang
left join pair_with_shared_types
    on
        a.language_number = pair_with_shared_types.number_a
        and b.language_number = pair_with_shared_types.number_b;
