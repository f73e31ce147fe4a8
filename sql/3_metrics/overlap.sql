-- A row is one expert of one MoE layer: how evenly the languages use it.
--
-- formula: CV = population standard deviation / mean of a over languages; O = 1 / (1 + CV);
--   score = O (1 + alpha mean a); O and score are 0 for an expert that no language uses
-- range: O 0 to 1 (every language uses it alike)
-- source: RISE, 2604.03592, eq. 8; the case of the unused expert is ours
-- needs: usage
-- parameters:
--   alpha: how much an expert's mean activation frequency raises its score
--   languages: the languages that mean and deviation run over; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   expert: logical expert id
--   count: tokens of all the languages routed to the expert
--   cv: coefficient of variation of a; NULL for an expert that no language uses
--   overlap: O
--   score: O (1 + alpha mean a)
create or replace macro overlap(
    alpha := 10,
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with shared_expert as (
    select
        used.run,
        used.layer,
        used.expert,
        sum(used.count)::bigint as count,
        avg(used.count / used.tokens) as mean_frequency,
        stddev_pop(used.count / used.tokens) / nullif(avg(used.count / used.tokens), 0) as cv
    from
        usage_of(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
    group by all
)

select
    run,
    layer,
    expert,
    count,
    cv,
    coalesce(1 / (1 + cv), 0) as overlap,
    coalesce(1 / (1 + cv), 0) * (1 + alpha * mean_frequency) as score
from shared_expert;
