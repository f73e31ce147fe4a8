-- A row is one MoE layer: whether languages that share vocabulary are routed alike there.
--
-- formula: Pearson r over language pairs between a divergence of `divergence`, raw (jsd) or normalised (jsd_normalized), and
--   the two overlaps of `vocabulary_overlap`; NULL below 3 pairs and where either side does not vary (standard deviation
--   below 1e-12). p is Mantel's, two-sided: (1 + permutations with |r_i| >= |r| - 1e-12) / (1 + permutations). Permutation
--   i = 1, 2, ... gives each pair of languages, in the order of their names, the overlap of the pair that stands in its
--   place in the order of md5(seed:i:lang): pairs are not independent, languages are
-- range: r -1 (the more vocabulary shared, the less divergence) to 1; p 1 / (1 + permutations) to 1, NULL where there are none
-- source: 2605.29714, whose code correlates the raw divergence; the formulas of the overlaps are ours; Mantel (1967)
-- needs: usage, tokens
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
--   permutations: how often the languages are permuted
--   seed: another seed gives other permutations
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   pairs: language pairs in the correlation
--   r_type: r of jsd and type_jaccard
--   r_token: r of jsd and token_overlap
--   p_type: p of r_type
--   p_token: p of r_token
--   r_type_normalized: r of jsd_normalized and type_jaccard
--   r_token_normalized: r of jsd_normalized and token_overlap
create or replace macro divergence_vs_vocabulary(
    languages := null, layers := null, permutations := 999, seed := 0
) as table
with vocabulary as (
    select
        run,
        lang_a,
        lang_b,
        type_jaccard,
        token_overlap
    from vocabulary_overlap(languages := languages)
),

pair as (
    select
        divergent.run,
        divergent.layer,
        lang_a,
        lang_b,
        divergent.jsd,
        divergent.jsd_normalized,
        vocabulary.type_jaccard,
        vocabulary.token_overlap
    from divergence(languages := languages, layers := layers) as divergent
    inner join vocabulary using (run, lang_a, lang_b)
),

layer_pairs as (
    select
        run,
        layer,
        count(*) as pairs,
        count(*) > 2 and stddev_pop(jsd) > 1e-12 as varies,
        count(*) > 2 and stddev_pop(jsd_normalized) > 1e-12 as normalized_varies,
        stddev_pop(type_jaccard) > 1e-12 as type_varies,
        stddev_pop(token_overlap) > 1e-12 as token_varies,
        avg(jsd) as jsd_mean,
        stddev_pop(jsd) as jsd_deviation,
        corr(jsd, type_jaccard) as r_type,
        corr(jsd, token_overlap) as r_token,
        corr(jsd_normalized, type_jaccard) as r_type_normalized,
        corr(jsd_normalized, token_overlap) as r_token_normalized
    from pair
    group by
        run,
        layer
),

-- One list a layer, the pairs in the order of their names, in units that make r of two sides the sum of their products.
layer_list as (
    select
        pair.run,
        pair.layer,
        list(
            (pair.jsd - layer_pairs.jsd_mean) / layer_pairs.jsd_deviation / layer_pairs.pairs
            order by pair.lang_a, pair.lang_b
        ) as jsds
    from pair
    inner join layer_pairs using (run, layer)
    where layer_pairs.varies
    group by
        pair.run,
        pair.layer
),

-- The overlaps as a square, both triangles of it, a list a run: row (a, b) stands at (a - 1) * languages + b.
compared_language as (
    select
        run,
        lang,
        row_number() over (partition by run order by lang) as number,
        count(*) over (partition by run) as run_languages
    from (
        select distinct
            run,
            unnest([lang_a, lang_b]) as lang
        from pair
    )
),

unit_pair as (
    select
        run,
        lang_a,
        lang_b,
        (type_jaccard - avg(type_jaccard) over of_run)
        / if(stddev_pop(type_jaccard) over of_run > 1e-12, stddev_pop(type_jaccard) over of_run, null) as type_jaccard,
        (token_overlap - avg(token_overlap) over of_run)
        / if(stddev_pop(token_overlap) over of_run > 1e-12, stddev_pop(token_overlap) over of_run, null) as token_overlap
    from (
        select distinct
            run,
            lang_a,
            lang_b,
            type_jaccard,
            token_overlap
        from pair
    )
    window of_run as (partition by run)
),

square as (
    select
        a.run,
        list(coalesce(unit_pair.type_jaccard, 0) order by a.number, b.number) as type_jaccards,
        list(coalesce(unit_pair.token_overlap, 0) order by a.number, b.number) as token_overlaps,
        list({'a': a.number, 'b': b.number} order by a.number, b.number) filter (where a.number < b.number) as places
    from compared_language as a
    inner join compared_language as b using (run)
    left join unit_pair
        on
            a.run = unit_pair.run
            and least(a.lang, b.lang) = unit_pair.lang_a
            and greatest(a.lang, b.lang) = unit_pair.lang_b
    group by a.run
),

-- Permutation 0 is the languages as they are.
language_order as (
    select
        language.run,
        permuted.range as permutation,
        language.run_languages,
        list(
            language.number
            order by if(permuted.range = 0, language.lang, md5(seed || ':' || permuted.range || ':' || language.lang))
        ) as numbers
    from compared_language as language
    cross join range(if(permutations > 0, 1 + permutations, 0)) as permuted
    group by
        language.run,
        permuted.range,
        language.run_languages
),

permuted_place as (
    select
        language_order.run,
        language_order.permutation,
        list_transform(
            square.places,
            lambda place: (language_order.numbers[place.a] - 1) * language_order.run_languages
            + language_order.numbers[place.b]
        ) as places,
        square.type_jaccards,
        square.token_overlaps
    from language_order
    inner join square using (run)
),

permuted_vocabulary as (
    select
        run,
        permutation,
        list_select(type_jaccards, places) as type_jaccards,
        list_select(token_overlaps, places) as token_overlaps
    from permuted_place
),

layer_permutation as (
    select
        permuted.run,
        layer_list.layer,
        permuted.permutation,
        abs(list_dot_product(layer_list.jsds, permuted.type_jaccards)) as r_type,
        abs(list_dot_product(layer_list.jsds, permuted.token_overlaps)) as r_token
    from permuted_vocabulary as permuted
    inner join layer_list using (run)
),

compared_permutation as (
    select
        *,
        first_value(r_type) over (partition by run, layer order by permutation) as r_type_found,
        first_value(r_token) over (partition by run, layer order by permutation) as r_token_found
    from layer_permutation
),

layer_p as (
    select
        run,
        layer,
        avg((r_type >= r_type_found - 1e-12)::integer) as p_type,
        avg((r_token >= r_token_found - 1e-12)::integer) as p_token
    from compared_permutation
    group by
        run,
        layer
)

select
    run,
    layer,
    layer_pairs.pairs,
    case when varies and type_varies then r_type end as r_type,
    case when varies and token_varies then r_token end as r_token,
    case when varies and type_varies then p_type end as p_type,
    case when varies and token_varies then p_token end as p_token,
    case when normalized_varies and type_varies then r_type_normalized end as r_type_normalized,
    case when normalized_varies and token_varies then r_token_normalized end as r_token_normalized
from layer_pairs
left join layer_p using (run, layer);
