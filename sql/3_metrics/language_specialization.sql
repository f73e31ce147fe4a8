-- A row is one MoE layer: how much the expert that a token was sent to tells about the token's language.
--
-- formula: (H(L) - H(L|E)) / H(L) on the layer's table of counts n[language, expert]: H(L) = -sum (n_l / N) ln (n_l / N),
--   H(L|E) = -sum (n_le / N) ln (n_le / n_e). Counts as they are: a language with twice the tokens weighs twice
-- range: 0 (every language uses the layer alike) to 1 (no expert is shared)
-- source: 2605.29714
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   specialization: the part of H(L) that the expert takes away; NULL where there is one language
create or replace macro language_specialization(languages := null, layers := null) as table
with language_expert as (
    select
        used.run,
        used.layer,
        used.lang,
        used.count,
        sum(used.count) over (partition by used.run, used.layer, used.expert) as expert_count
    from usage_by_language as used
    where wanted(used.lang, languages) and wanted(used.layer, layers)
),

language_layer as (
    select
        run,
        layer,
        lang,
        sum(count) as language_count,
        sum(case when count > 0 then -count * ln(count / expert_count) else 0 end) as entropy_given_expert
    from language_expert
    group by
        run,
        layer,
        lang
),

layer_total as (
    select
        run,
        layer,
        sum(language_count) as total
    from language_layer
    group by
        run,
        layer
),

layer_entropy as (
    select
        run,
        layer,
        sum(-language_count / total * ln(language_count / total)) as entropy,
        sum(entropy_given_expert / total) as entropy_given_expert
    from language_layer
    inner join layer_total using (run, layer)
    group by
        run,
        layer
)

-- What the comparison cuts off is rounding; one language has no entropy, so that there is nothing to tell.
select
    run,
    layer,
    if(entropy < entropy_given_expert, 0, (entropy - entropy_given_expert) / nullif(entropy, 0)) as specialization
from layer_entropy;
