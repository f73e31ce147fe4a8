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
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   expert: logical expert id
--   cv: coefficient of variation of a; NULL for an expert that no language uses
--   overlap: O
--   score: O (1 + alpha mean a)
create or replace macro overlap(alpha := 10, languages := null, layers := null) as table
with shared_expert as (
    select
        activation.run,
        activation.layer,
        activation.expert,
        avg(activation.frequency) as mean_frequency,
        stddev_pop(activation.frequency) / nullif(avg(activation.frequency), 0) as cv
    from activation
    where wanted(activation.lang, languages) and wanted(activation.layer, layers)
    group by all
)

select
    run,
    layer,
    expert,
    cv,
    coalesce(1 / (1 + cv), 0) as overlap,
    coalesce(1 / (1 + cv), 0) * (1 + alpha * mean_frequency) as score
from shared_expert;
