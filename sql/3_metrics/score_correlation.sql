-- A row is one MoE layer: whether languages that are routed like the pivot language are those with high scores.
--
-- formula: Pearson r over languages between `pivot_similarity.similarity` and the score; Spearman r is that of their ranks,
--   ties sharing the mean rank (similarities rounded to 12 decimals). p is the chance of an |r| as large if scores had
--   nothing to do with languages: (1 + permutations with |r_i| >= |r| - 1e-12) / (1 + permutations), two-sided. Permutation
--   i = 1, 2, ... gives the languages, in the order of their names, the scores of the languages in the order of
--   md5(seed:i:lang), the same in every layer. p_layers is the same with the largest |r_i| of all layers that are looked at
--   in place of the layer's own: the chance that any layer has so large an |r|
-- range: r -1 to 1; p 1 / (1 + permutations) to 1; NULL below 3 languages and where either side does not vary (standard
--   deviation below 1e-12); p also where there are no permutations
-- source: 2510.04694; p_layers: Westfall and Young's single-step maximum statistic
-- needs: profiles, sequences, parallel text ids
-- parameters:
--   scores: name of a table with columns lang, one row a language, and score
--   pivot_lang: the language to compare to; null = the run's pivot
--   layers: decoder layers to look at; null = all
--   permutations: how often the scores are permuted
--   seed: another seed gives other permutations
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   n: languages with both a similarity and a score, the pivot language left out
--   pearson: Pearson r
--   pearson_p: its two-sided p-value, of this layer alone
--   pearson_p_layers: its p-value among all layers: of tables without any correlation, one in 20 has a layer at .05 or less
--   spearman: Spearman r
--   spearman_p: its two-sided p-value, of this layer alone
--   spearman_p_layers: its p-value among all layers
create or replace macro score_correlation(
    scores := 'scores', pivot_lang := null, layers := null, permutations := 999, seed := 0
) as table
with scored_language as (
    select
        routed.run,
        routed.layer,
        routed.lang,
        routed.similarity,
        round(routed.similarity, 12) as rounded_similarity,
        given.score::double as score
    from pivot_similarity(pivot_lang := pivot_lang, layers := layers, derangements := 0) as routed
    inner join query_table(scores) as given using (lang)
    where given.score is not null
),

ranked_language as (
    select
        run,
        layer,
        lang,
        similarity,
        score,
        rank() over (partition by run, layer order by rounded_similarity)
        + count(*) over (partition by run, layer, rounded_similarity) / 2 as similarity_rank,
        rank() over (partition by run, layer order by score)
        + count(*) over (partition by run, layer, score) / 2 as score_rank
    from scored_language
),

-- Distances from the mean, in units that make r of two sides the sum of their products.
unit_language as (
    select
        run,
        layer,
        lang,
        count(*) over of_layer as n,
        (similarity - avg(similarity) over of_layer) / nullif(stddev_pop(similarity) over of_layer, 0) as similarity,
        (score - avg(score) over of_layer) / nullif(stddev_pop(score) over of_layer, 0) / count(*) over of_layer as score,
        (similarity_rank - avg(similarity_rank) over of_layer)
        / nullif(stddev_pop(similarity_rank) over of_layer, 0) as similarity_rank,
        (score_rank - avg(score_rank) over of_layer)
        / nullif(stddev_pop(score_rank) over of_layer, 0)
        / count(*) over of_layer as score_rank,
        count(*) over of_layer > 2
        and stddev_pop(similarity) over of_layer > 1e-12
        and stddev_pop(score) over of_layer > 1e-12 as varies
    from ranked_language
    window of_layer as (partition by run, layer)
),

layer_list as (
    select
        run,
        layer,
        n,
        list(similarity order by lang) filter (where varies and similarity is not null) as similarities,
        list(similarity_rank order by lang) filter (where varies and similarity_rank is not null) as similarity_ranks
    from unit_language
    group by
        run,
        layer,
        n
),

language as (
    select distinct
        run,
        lang,
        first_value(score) over of_language as score,
        first_value(score_rank) over of_language as score_rank
    from unit_language
    where varies
    window of_language as (partition by run, lang order by layer)
),

-- Permutation 0 is the scores as they are.
permuted_score as (
    select
        language.run,
        language.score,
        language.score_rank,
        permuted.range as permutation,
        if(permuted.range = 0, language.lang, md5(seed || ':' || permuted.range || ':' || language.lang)) as place
    from language
    cross join range(1 + permutations) as permuted
),

permutation_list as (
    select
        run,
        permutation,
        list(score order by place) as scores,
        list(score_rank order by place) as score_ranks
    from permuted_score
    group by
        run,
        permutation
),

layer_permutation as (
    select
        layer_list.run,
        layer_list.layer,
        layer_list.n,
        permuted.permutation,
        list_dot_product(layer_list.similarities, permuted.scores) as pearson,
        list_dot_product(layer_list.similarity_ranks, permuted.score_ranks) as spearman
    from layer_list
    left join permutation_list as permuted
        on
            layer_list.run = permuted.run
            and layer_list.n = len(permuted.scores)
),

compared_permutation as (
    select
        *,
        first_value(pearson) over (partition by run, layer order by permutation) as pearson_found,
        first_value(spearman) over (partition by run, layer order by permutation) as spearman_found,
        max(abs(pearson)) over (partition by run, permutation) as largest_pearson,
        max(abs(spearman)) over (partition by run, permutation) as largest_spearman
    from layer_permutation
)

-- Permutation 0 is the one in the numerator and the denominator.
select
    run,
    layer,
    n,
    any_value(pearson_found) as pearson,
    avg((abs(pearson) >= abs(pearson_found) - 1e-12)::integer) filter (where permutations > 0) as pearson_p,
    avg((largest_pearson >= abs(pearson_found) - 1e-12)::integer) filter (where permutations > 0) as pearson_p_layers,
    any_value(spearman_found) as spearman,
    avg((abs(spearman) >= abs(spearman_found) - 1e-12)::integer) filter (where permutations > 0) as spearman_p,
    avg((largest_spearman >= abs(spearman_found) - 1e-12)::integer) filter (where permutations > 0) as spearman_p_layers
from compared_permutation
group by
    run,
    layer,
    n;
