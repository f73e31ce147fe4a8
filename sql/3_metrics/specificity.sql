-- A row is one expert of one MoE layer for one language: how much more that language uses it than languages do on average.
--
-- formula: S = a / mean over languages of a (1e-8 in place of a mean of 0); score = S (1 + alpha a)
-- range: S 0 (never used) to the number of languages (used by no other), 1 = used as by the average language
-- source: RISE, 2604.03592, eq. 8
-- needs: usage
-- parameters:
--   alpha: how much an expert's activation frequency raises its score
--   languages: the languages the mean runs over, the language itself where it is one of them; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   specificity: S
--   score: S (1 + alpha a)
create or replace macro specificity(alpha := 10, languages := null, layers := null) as table
with mean_activation as (
    select
        activation.run,
        activation.layer,
        activation.expert,
        avg(activation.frequency) as frequency
    from activation
    where wanted(activation.lang, languages) and wanted(activation.layer, layers)
    group by all
),

language_expert as (
    select
        activation.run,
        activation.lang,
        activation.layer,
        activation.expert,
        activation.frequency,
        activation.frequency / coalesce(nullif(mean_activation.frequency, 0), 1e-8) as specificity
    from activation
    inner join mean_activation using (run, layer, expert)
)

select
    run,
    lang,
    layer,
    expert,
    specificity,
    specificity * (1 + alpha * frequency) as score
from language_expert;
