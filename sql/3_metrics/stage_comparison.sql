-- A row is one MoE layer of two runs, such as a base model and its continued pre-training: their metrics side by side.
--
-- formula: entropy = mean over languages of H(p) / ln E; divergence = mean over language pairs of the entropy-normalised
--   Jensen-Shannon divergence of p; specialization = (H(L) - H(L|E)) / H(L); languages: those that both runs have
-- range: each 0 to 1
-- source: the measures 2605.29714; the comparison is ours
-- needs: usage
-- parameters:
--   run_a: the earlier run; null = every run
--   run_b: the later run; null = every run whose name comes later
--   layers: decoder layers to look at; null = all
-- columns:
--   run_a: the earlier run
--   run_b: the later run
--   layer: the decoder layer's own index
--   languages: how many languages both runs have
--   entropy_a: mean normalised routing entropy of the earlier run
--   entropy_b: of the later run
--   divergence_a: mean normalised divergence of the earlier run; NULL for one language
--   divergence_b: of the later run
--   specialization_a: language specialization of the earlier run; NULL for one language
--   specialization_b: of the later run
create or replace macro stage_comparison(run_a := null, run_b := null, layers := null) as table
with run_pair as (
    select
        a.run as first_run,
        b.run as second_run
    from runs as a
    inner join runs as b
        on
            (run_a is null or a.run = run_a)
            and if(run_b is null, b.run > a.run, b.run = run_b)
            and a.run <> b.run
),

shared_language as (
    select
        run_pair.first_run,
        run_pair.second_run,
        a.lang
    from run_pair
    inner join languages as a
        on run_pair.first_run = a.run
    inner join languages as b
        on
            run_pair.second_run = b.run
            and a.lang = b.lang
),

side as (
    select
        first_run,
        second_run,
        lang,
        unnest([first_run, second_run]) as run
    from shared_language
),

entropy as (
    select
        side.first_run,
        side.second_run,
        routing_entropy.run,
        routing_entropy.layer,
        count(*) as languages,
        avg(routing_entropy.entropy_normalized) as entropy
    from side
    inner join routing_entropy using (run, lang)
    group by
        side.first_run,
        side.second_run,
        routing_entropy.run,
        routing_entropy.layer
),

pair_divergence as (
    select
        a.first_run,
        a.second_run,
        divergence.run,
        divergence.layer,
        avg(divergence.jsd_normalized) as divergence
    from divergence
    inner join side as a
        on
            divergence.run = a.run
            and divergence.lang_a = a.lang
    inner join side as b
        on
            divergence.run = b.run
            and divergence.lang_b = b.lang
            and a.first_run = b.first_run
            and a.second_run = b.second_run
    group by
        a.first_run,
        a.second_run,
        divergence.run,
        divergence.layer
),

language_expert as (
    select
        side.first_run,
        side.second_run,
        used.run,
        used.layer,
        used.lang,
        used.expert,
        used.count::double as count
    from side
    inner join usage_by_language as used using (run, lang)
),

margin as (
    select
        *,
        sum(count) over (partition by first_run, second_run, run, layer) as total,
        sum(count) over (partition by first_run, second_run, run, layer, lang) as of_language,
        sum(count) over (partition by first_run, second_run, run, layer, expert) as of_expert
    from language_expert
),

specialization as (
    select
        first_run,
        second_run,
        run,
        layer,
        -- Each row of a language carries its part of H(L), in proportion to its count.
        -sum(count / total * ln(of_language / total)) as language_entropy,
        -sum(if(count = 0, 0, count / total * ln(greatest(count, 1e-300) / of_expert))) as conditional_entropy
    from margin
    group by
        first_run,
        second_run,
        run,
        layer
),

stage as (
    select
        entropy.first_run,
        entropy.second_run,
        entropy.run,
        entropy.layer,
        entropy.languages,
        entropy.entropy,
        pair_divergence.divergence,
        case
            when entropy.languages > 1
                then
                    (specialization.language_entropy - specialization.conditional_entropy)
                    / specialization.language_entropy
        end as specialization
    from entropy
    inner join specialization using (first_run, second_run, run, layer)
    left join pair_divergence using (first_run, second_run, run, layer)
)

select
    a.first_run as run_a,
    a.second_run as run_b,
    a.layer,
    a.languages,
    a.entropy as entropy_a,
    b.entropy as entropy_b,
    a.divergence as divergence_a,
    b.divergence as divergence_b,
    a.specialization as specialization_a,
    b.specialization as specialization_b
from stage as a
inner join stage as b
    on
        a.first_run = b.first_run
        and a.second_run = b.second_run
        and a.layer = b.layer
where
    a.run = a.first_run
    and b.run = b.second_run
    and wanted(a.layer, layers);
