-- A row is one pair of languages at one MoE layer: how much their sets of most used experts overlap.
--
-- formula: jaccard = |A and B| / |A or B|, A and B of `expert_sets(n)`; isolation = 1 - jaccard
-- range: 0 (no expert shared) to 1 (the same sets)
-- source: ours, after RISE's routing isolation, 2604.03592
-- needs: usage
-- parameters:
--   n: size of the sets; null = the run's top_k
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   lang_a: the pair's first language, lang_a < lang_b
--   lang_b: the pair's second language
--   n: size of the sets
--   jaccard: intersection over union
--   isolation: 1 - jaccard
create or replace macro jaccard(n := null, languages := null, layers := null) as table
with member as (
    select
        chosen.run,
        chosen.lang,
        chosen.layer,
        chosen.n as set_size,
        chosen.expert
    from expert_sets(n := n, languages := languages, layers := layers) as chosen
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
)

select
    run,
    layer,
    lang_a,
    lang_b,
    set_size as n,
    coalesce(shared, 0) / (2 * set_size - coalesce(shared, 0)) as jaccard,
    1 - coalesce(shared, 0) / (2 * set_size - coalesce(shared, 0)) as isolation
from pair
left join pair_with_shared_experts using (run, layer, lang_a, lang_b);
