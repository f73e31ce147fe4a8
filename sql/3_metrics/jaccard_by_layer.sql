-- A row is one MoE layer: the mean overlap of all pairs of languages there.
--
-- formula: mean over language pairs of `jaccard(n)`
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
--   n: size of the sets
--   pairs: language pairs in the mean
--   jaccard: mean intersection over union
--   isolation: 1 - jaccard
create or replace macro jaccard_by_layer(n := null, languages := null, layers := null) as table
select
    pair.run,
    pair.layer,
    pair.n,
    count(*) as pairs,
    avg(pair.jaccard) as jaccard,
    avg(pair.isolation) as isolation
from jaccard(n := n, languages := languages, layers := layers) as pair
group by all;
