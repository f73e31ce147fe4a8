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
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   n: size of the set, at most the number of experts
--   rank: 0 = highest a
--   expert: logical expert id
--   frequency: a
create or replace macro expert_sets(
    n := null,
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
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
    from
        usage_of(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
    inner join runs using (run)
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
