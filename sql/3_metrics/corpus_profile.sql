-- A row is one language of a run: what its texts are made of.
--
-- formula: counts over the language's texts. fertility = tokens of the texts that it shares with the pivot language / the
--   pivot's tokens of the same texts, what a model generated left out. Texts are duplicates of each other where their
--   tokens have the same ids in the same order, what a model generated left out
-- range: counts from 0; fertility above 0, 1 for the pivot language. NULL where a run lacks what a column is made of
-- units: texts or tokens, as the names say
-- source: ours
-- needs: commit records
-- columns:
--   run: the run's name
--   lang: the language's code
--   texts: texts that were traced; NULL without sequences
--   tokens: T, tokens that were traced; 1000000000 stands for T where an import has frequencies only
--   tokens_per_text: tokens / texts
--   fertility: how many tokens it takes where the pivot takes one; NULL without a pivot, or text ids that are parallel
--   prompt_tokens: tokens that stood in the texts; NULL without sequences
--   generated_tokens: tokens that the model generated itself; NULL without sequences
--   special_tokens: tokens of the run's special ids; NULL where these, or the tokens' ids, are not known
--   truncated_texts: texts that were cut to the model's window; NULL without sequences
--   duplicate_texts: texts whose token ids are those of another text, all of them counted; NULL where ids are not known
--   shared_texts: text ids that every language of the run has; NULL without sequences, or text ids that are parallel
create or replace view corpus_profile as
with language_texts as (
    select
        run,
        lang,
        count(*) as texts,
        sum(tokens - generated)::bigint as prompt_tokens,
        sum(generated)::bigint as generated_tokens,
        count(*) filter (where truncated) as truncated_texts
    from sequences
    group by
        run,
        lang
),

special as (
    select distinct
        run,
        unnest(special_token_ids) as token_id
    from runs
),

-- Sums of hashes are of the ids in their order, whatever the order they are read in.
text_tokens as (
    select
        token.run,
        token.lang,
        token.seq,
        count(*) - count(token.token_id) as unknown_tokens,
        count(special.token_id) as special_tokens,
        sum(hash(token.position, token.token_id)) filter (where not token.generated) as hash_of_ids,
        bit_xor(hash(token.token_id, token.position)) filter (where not token.generated) as other_hash_of_ids
    from tokens as token
    left join special
        on
            token.run = special.run
            and token.token_id = special.token_id
    group by
        token.run,
        token.lang,
        token.seq
),

text_of_ids as (
    select
        run,
        lang,
        count(*) as texts,
        sum(unknown_tokens) as unknown_tokens,
        sum(special_tokens) as special_tokens
    from text_tokens
    group by
        run,
        lang,
        hash_of_ids,
        other_hash_of_ids
),

language_tokens as (
    select
        run,
        lang,
        sum(unknown_tokens) as unknown_tokens,
        sum(special_tokens)::bigint as special_tokens,
        (coalesce(sum(texts) filter (where texts > 1), 0))::bigint as duplicate_texts
    from text_of_ids
    group by
        run,
        lang
),

language_beside_pivot as (
    select
        text.run,
        text.lang,
        sum(text.tokens - text.generated) / sum(pivot_text.tokens - pivot_text.generated) as fertility
    from sequences as text
    inner join runs
        on
            text.run = runs.run
            and runs.parallel
    inner join sequences as pivot_text
        on
            text.run = pivot_text.run
            and runs.pivot_lang = pivot_text.lang
            and text.text_id = pivot_text.text_id
    group by
        text.run,
        text.lang
),

text_languages as (
    select
        run,
        text_id,
        count(distinct lang) as languages
    from sequences
    group by
        run,
        text_id
),

run_texts as (
    select
        text_languages.run,
        count(*) filter (where text_languages.languages = run_languages.languages) as shared_texts
    from text_languages
    inner join (
        select
            run,
            count(*) as languages
        from languages
        group by run
    ) as run_languages using (run)
    group by text_languages.run
)

select
    languages.run,
    languages.lang,
    language_texts.texts,
    languages.tokens,
    languages.tokens / language_texts.texts as tokens_per_text,
    language_beside_pivot.fertility,
    language_texts.prompt_tokens,
    language_texts.generated_tokens,
    case
        when language_tokens.unknown_tokens = 0 and runs.special_token_ids is not null
            then language_tokens.special_tokens
    end as special_tokens,
    language_texts.truncated_texts,
    case when language_tokens.unknown_tokens = 0 then language_tokens.duplicate_texts end as duplicate_texts,
    case when runs.parallel then run_texts.shared_texts end as shared_texts
from languages
inner join runs on languages.run = runs.run
left join language_texts
    on
        languages.run = language_texts.run
        and languages.lang = language_texts.lang
left join language_tokens
    on
        languages.run = language_tokens.run
        and languages.lang = language_tokens.lang
left join language_beside_pivot
    on
        languages.run = language_beside_pivot.run
        and languages.lang = language_beside_pivot.lang
left join run_texts on languages.run = run_texts.run;
