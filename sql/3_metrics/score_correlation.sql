-- A row is one MoE layer: whether languages that are routed like the pivot language are those with high scores.
--
-- formula: Pearson r over languages between `pivot_similarity.similarity` and the score; Spearman r is that of their ranks,
--   ties sharing the mean rank (similarities rounded to 12 decimals). p is the chance of an |r| as large from numbers that
--   are normal and independent, two-sided: P(|t| > |r| sqrt(v / (1 - r^2))), Student's t with v = n - 2, which is
--   sum of f(i) for i = v/2, v/2 + 1, ... with f(i) = |r| / sqrt(pi) Gamma(i + 1/2) / Gamma(i + 1) (1 - r^2)^i;
--   for small r, where that is slow, 1 - (2/pi acos |r| in place of 1 for odd v) - the sum of f(i) for i = v/2 - 1, ... down to 0
-- range: r -1 to 1; p 0 to 1; NULL below 3 languages and where either side does not vary (standard deviation below 1e-12)
-- source: 2510.04694
-- needs: profiles, sequences
-- parameters:
--   scores: name of a table with columns lang, one row a language, and score
--   pivot_lang: the language to compare to; null = the run's pivot
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   n: languages with both a similarity and a score, the pivot language left out
--   pearson: Pearson r
--   pearson_p: its two-sided p-value
--   spearman: Spearman r
--   spearman_p: its two-sided p-value
create or replace macro score_correlation(scores := 'scores', pivot_lang := null, layers := null) as table
with scored_language as (
    select
        routed.run,
        routed.layer,
        routed.similarity,
        round(routed.similarity, 12) as rounded_similarity,
        given.score::double as score
    from pivot_similarity(pivot_lang := pivot_lang, layers := layers) as routed
    inner join query_table(scores) as given using (lang)
    where given.score is not null
),

ranked_language as (
    select
        run,
        layer,
        similarity,
        score,
        rank() over (partition by run, layer order by rounded_similarity)
        + count(*) over (partition by run, layer, rounded_similarity) / 2 as similarity_rank,
        rank() over (partition by run, layer order by score)
        + count(*) over (partition by run, layer, score) / 2 as score_rank
    from scored_language
),

layer_correlation as (
    select
        run,
        layer,
        count(*) as n,
        count(*) > 2 and stddev_pop(similarity) > 1e-12 and stddev_pop(score) > 1e-12 as varies,
        corr(similarity, score) as pearson,
        corr(similarity_rank, score_rank) as spearman
    from ranked_language
    group by
        run,
        layer
),

correlation as (
    select
        run,
        layer,
        n,
        unnest(['pearson', 'spearman']) as kind,
        unnest([if(varies, pearson, null), if(varies, spearman, null)]) as r
    from layer_correlation
),

correlation_with_rest as (
    select
        *,
        if(abs(r) > 1, 0, 1 - r * r) as unexplained
    from correlation
),

tested_correlation as (
    select
        run,
        layer,
        n,
        kind,
        r,
        case
            when unexplained < 0.9
                then
                    abs(r) / sqrt(pi()) * list_sum(list_transform(
                        range(400),
                        lambda j: exp(lgamma(n / 2 - 0.5 + j) - lgamma(n / 2 + j)) * pow(unexplained, n / 2 - 1 + j)
                    ))
            when unexplained >= 0.9
                then
                    if(n % 2 = 0, 1, 2 / pi() * acos(abs(r)))
                    - abs(r) / sqrt(pi()) * coalesce(list_sum(list_transform(
                        range(n // 2 - 1),
                        lambda j: exp(lgamma(n / 2 - 1.5 - j) - lgamma(n / 2 - 1 - j)) * pow(unexplained, n / 2 - 2 - j)
                    )), 0)
        end as p
    from correlation_with_rest
)

select
    run,
    layer,
    n,
    any_value(r) filter (where kind = 'pearson') as pearson,
    any_value(p) filter (where kind = 'pearson') as pearson_p,
    any_value(r) filter (where kind = 'spearman') as spearman,
    any_value(p) filter (where kind = 'spearman') as spearman_p
from tested_correlation
group by
    run,
    layer,
    n;
