-- A row is one pair of languages at one MoE layer: how much their sets of most used experts overlap.
--
-- formula: jaccard = |A and B| / |A or B|, A and B of `expert_sets(n)`; isolation = 1 - jaccard;
--   expected = the mean jaccard of two sets of n of the E experts, each drawn at random by itself (`expected_jaccard`):
--   (jaccard - expected) / (1 - expected) is corrected for chance
-- range: 0 (no expert shared) to 1 (the same sets)
-- source: ours, after RISE's routing isolation, 2604.03592
-- needs: usage
-- parameters:
--   n: size of the sets; null = the run's top_k
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   lang_a: the pair's first language, lang_a < lang_b
--   lang_b: the pair's second language
--   n: size of the sets
--   jaccard: intersection over union
--   isolation: 1 - jaccard
--   expected: what chance alone gives sets of this size
create or replace macro jaccard(
    n := null,
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with member as (
    select
        chosen.run,
        chosen.lang,
        chosen.layer,
        chosen.n as set_size,
        chosen.expert
    from
        expert_sets(
            n := n,
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as chosen
),

expert_set as (
    select
        run,
        lang,
        layer,
        set_size
    from member
    group by all
),

pair_with_shared_experts as (
    select
        a.run,
        a.layer,
        a.lang as lang_a,
        b.lang as lang_b,
        count(*) as shared
    from member as a
    inner join member as b
        on
            a.run = b.run
            and a.layer = b.layer
            and a.expert = b.expert
            and a.lang < b.lang
    group by all
),

pair as (
    select
        a.run,
        a.layer,
        a.lang as lang_a,
        b.lang as lang_b,
        a.set_size
    from expert_set as a
    inner join expert_set as b
        on
            a.run = b.run
            and a.layer = b.layer
            and a.lang < b.lang
),

-- By run, not by row: a sum of logarithms of factorials.
chance as (
    select
        runs.run,
        expected_jaccard(least(coalesce(n, runs.top_k), runs.num_experts), runs.num_experts) as expected
    from runs
)

select
    run,
    layer,
    lang_a,
    lang_b,
    set_size as n,
    coalesce(shared, 0) / (2 * set_size - coalesce(shared, 0)) as jaccard,
    1 - coalesce(shared, 0) / (2 * set_size - coalesce(shared, 0)) as isolation,
    expected
from pair
inner join chance using (run)
left join pair_with_shared_experts using (run, layer, lang_a, lang_b);
