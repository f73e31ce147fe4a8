-- A row is one member of the set of the n most used experts of one MoE layer for one language.
--
-- formula: the n experts with the highest a; ties go to the lower expert id
-- range: n rows for each language and layer; rank 0 to n - 1
-- source: ours
-- needs: usage
-- parameters:
--   n: size of the sets; null = the run's top_k
--   languages: languages to look at; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   n: size of the set, at most the number of experts
--   rank: 0 = highest a
--   expert: logical expert id
--   frequency: a
create or replace macro expert_sets(n := null, languages := null, layers := null) as table
with ranked_expert as (
    select
        used.run,
        used.lang,
        used.layer,
        least(coalesce(n, runs.top_k), runs.num_experts)::integer as set_size,
        row_number() over (
            partition by used.run, used.lang, used.layer
            order by used.count desc, used.expert asc
        ) - 1 as rank,
        used.expert,
        used.count / used.tokens as frequency
    from usage_by_language as used
    inner join runs using (run)
    where wanted(used.lang, languages) and wanted(used.layer, layers)
)

select
    run,
    lang,
    layer,
    set_size as n,
    rank::integer as rank,
    expert,
    frequency
from ranked_expert
where rank < set_size;
