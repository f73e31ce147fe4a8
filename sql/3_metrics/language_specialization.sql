-- A row is one MoE layer: how much the expert that a token was sent to tells about the token's language.
--
-- formula: (H(L) - H(L|E)) / H(L) on the layer's table of counts n[language, expert]: H(L) = -sum (n_l / N) ln (n_l /
--   N), H(L|E) = -sum (n_le / N) ln (n_le / n_e) = (sum n_e ln n_e - sum n_le ln n_le) / N. Counts as they are: a
--   language with twice the tokens weighs twice. balanced: the same with every language's counts scaled to one total,
--   so that each weighs alike and H(L) = ln languages
-- range: 0 (every language uses the layer alike) to 1 (no expert is shared)
-- source: 2605.29714; balanced is ours
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   specialization: the part of H(L) that the expert takes away; NULL where there is one language
--   balanced: the same where every language weighs alike
create or replace macro language_specialization(
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
        used.layer,
        used.lang,
        used.expert,
        used.count,
        used.share,
        case when used.count > 0 then used.count * ln(used.count) else 0 end as count_log,
        case when used.count > 0 then used.share * ln(used.share) else 0 end as share_log
    from
        shares(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
),

language_layer as (
    select
        run,
        layer,
        lang,
        sum(count) as language_count
    from language_expert
    group by
        run,
        layer,
        lang
),

layer_languages as (
    select
        run,
        layer,
        count(*) as number,
        ln(sum(language_count)) - sum(language_count * ln(language_count)) / sum(language_count) as entropy
    from language_layer
    group by
        run,
        layer
),

expert as (
    select
        run,
        layer,
        sum(count) as count,
        sum(count_log) as count_log,
        sum(share) as share,
        sum(share_log) as share_log
    from language_expert
    group by
        run,
        layer,
        expert
),

layer_experts as (
    select
        run,
        layer,
        sum(case when count > 0 then count * ln(count) - count_log else 0 end) / sum(count) as entropy_given_expert,
        sum(case when count > 0 then share * ln(share) - share_log else 0 end) / sum(share) as balanced_given_expert
    from expert
    group by
        run,
        layer
)

-- What the comparisons cut off is rounding; one language has no entropy, so that there is nothing to tell.
select
    run,
    layer,
    case
        when number = 1 then null
        when entropy < entropy_given_expert then 0
        else (entropy - entropy_given_expert) / entropy
    end as specialization,
    case
        when number = 1 then null
        when ln(number) < balanced_given_expert then 0
        else (ln(number) - balanced_given_expert) / ln(number)
    end as balanced
from layer_languages
inner join layer_experts using (run, layer);
