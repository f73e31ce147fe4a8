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
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   n: size of the sets
--   pairs: language pairs in the mean
--   jaccard: mean intersection over union
--   isolation: 1 - jaccard
create or replace macro jaccard_by_layer(
    n := null,
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
select
    pair.run,
    pair.layer,
    pair.n,
    count(*) as pairs,
    avg(pair.jaccard) as jaccard,
    avg(pair.isolation) as isolation
from
    jaccard(
        n := n,
        languages := languages,
        layers := layers,
        prompt_only := prompt_only,
        skip_positions := skip_positions,
        skip_special := skip_special,
        shared_texts := shared_texts
    ) as pair
group by all;
