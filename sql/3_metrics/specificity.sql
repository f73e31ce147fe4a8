-- A row is one expert of one MoE layer for one language: how much more that language uses it than languages do on
--   average.
--
-- formula: S = a / mean over languages of a (1e-8 in place of a mean of 0); score = S (1 + alpha a). With a shrinkage
--   of lambda S = (c + lambda) / (T mean + lambda), c the language's count and T its tokens: as if each language had
--   lambda more decisions for the expert, so that S of experts with few decisions is drawn to 1
-- range: S 0 (never used) to the number of languages (used by no other), 1 = used as by the average language
-- source: RISE, 2604.03592, eq. 8; shrinkage is ours
-- needs: usage
-- parameters:
--   alpha: how much an expert's activation frequency raises its score
--   shrinkage: lambda, in decisions; 0 = none
--   languages: the languages the mean runs over, the language itself where it is one of them; null = all of the run
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
--   specificity: S
--   score: S (1 + alpha a)
create or replace macro specificity(
    alpha := 10,
    shrinkage := 0,
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with used as (
    select
        language_expert.run,
        language_expert.lang,
        language_expert.layer,
        language_expert.expert,
        language_expert.count,
        language_expert.tokens,
        language_expert.count / language_expert.tokens as frequency
    from
        usage_of(
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts,
            compared := languages
        ) as language_expert
),

mean_activation as (
    select
        used.run,
        used.layer,
        used.expert,
        avg(used.frequency) as frequency
    from used
    where wanted(used.lang, languages)
    group by all
),

language_expert as (
    select
        used.run,
        used.lang,
        used.layer,
        used.expert,
        used.count,
        used.frequency,
        (used.frequency + shrinkage / used.tokens)
        / coalesce(nullif(mean_activation.frequency + shrinkage / used.tokens, 0), 1e-8) as specificity
    from used
    inner join mean_activation using (run, layer, expert)
)

select
    run,
    lang,
    layer,
    expert,
    count,
    specificity,
    specificity * (1 + alpha * frequency) as score
from language_expert;
