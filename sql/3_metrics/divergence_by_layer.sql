-- A row is one MoE layer: the mean divergence of all pairs of languages there; over layers, the curve of how languages
--   converge and diverge.
--
-- formula: mean over language pairs of each column of `divergence`; of jsd_corrected and noise where every pair has one
-- range: as in `divergence`
-- units: nats (jsd, jsd_corrected, noise, probability_jsd)
-- source: 2605.29714
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   pairs: language pairs in the mean
--   jsd: mean Jensen-Shannon divergence of p
--   jsd_normalized: mean entropy-normalised divergence of p
--   jsd_corrected: mean Jensen-Shannon divergence of p without its bias; NULL where a pair has none
--   noise: mean of what it is on average where languages do not differ; NULL as jsd_corrected
--   probability_jsd: mean Jensen-Shannon divergence of P; NULL in a run without profiles
--   probability_jsd_normalized: mean entropy-normalised divergence of P
create or replace macro divergence_by_layer(
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
    count(*) as pairs,
    avg(pair.jsd) as jsd,
    avg(pair.jsd_normalized) as jsd_normalized,
    case when count(pair.jsd_corrected) = count(*) then avg(pair.jsd_corrected) end as jsd_corrected,
    case when count(pair.noise) = count(*) then avg(pair.noise) end as noise,
    avg(pair.probability_jsd) as probability_jsd,
    avg(pair.probability_jsd_normalized) as probability_jsd_normalized
from
    divergence(
        languages := languages,
        layers := layers,
        prompt_only := prompt_only,
        skip_positions := skip_positions,
        skip_special := skip_special,
        shared_texts := shared_texts
    ) as pair
group by all;
