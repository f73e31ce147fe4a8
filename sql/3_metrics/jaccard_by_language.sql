-- A row is one language: the mean overlap with every other language over all MoE layers.
--
-- formula: mean over layers and other languages of `jaccard(n)`
-- range: 0 (no expert shared) to 1 (the same sets)
-- source: ours, after RISE's routing isolation, 2604.03592
-- needs: usage
-- parameters:
--   n: size of the sets; null = the run's top_k
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers in the mean; null = all
-- columns:
--   run: the run's name
--   lang: the language's code
--   n: size of the sets
--   pairs: (layer, other language) in the mean
--   jaccard: mean intersection over union
--   isolation: 1 - jaccard
create or replace macro jaccard_by_language(n := null, languages := null, layers := null) as table
with language_in_pair as (
    select
        pair.run,
        unnest([pair.lang_a, pair.lang_b]) as lang,
        pair.n as set_size,
        pair.jaccard,
        pair.isolation
    from jaccard(n := n, languages := languages, layers := layers) as pair
)

select
    run,
    lang,
    set_size as n,
    count(*) as pairs,
    avg(jaccard) as jaccard,
    avg(isolation) as isolation
from language_in_pair
group by all;
