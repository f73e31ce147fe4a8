-- A row is one MoE layer: the mean divergence of all pairs of languages there; over layers, the curve of how languages
--   converge and diverge.
--
-- formula: mean over language pairs of each column of `divergence`
-- range: as in `divergence`
-- units: nats (jsd, probability_jsd)
-- source: 2605.29714
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   pairs: language pairs in the mean
--   jsd: mean Jensen-Shannon divergence of p
--   jsd_normalized: mean entropy-normalised divergence of p
--   probability_jsd: mean Jensen-Shannon divergence of P; NULL in a run without profiles
--   probability_jsd_normalized: mean entropy-normalised divergence of P
create or replace macro divergence_by_layer(languages := null, layers := null) as table
select
    pair.run,
    pair.layer,
    count(*) as pairs,
    avg(pair.jsd) as jsd,
    avg(pair.jsd_normalized) as jsd_normalized,
    avg(pair.probability_jsd) as probability_jsd,
    avg(pair.probability_jsd_normalized) as probability_jsd_normalized
from divergence(languages := languages, layers := layers) as pair
group by all;
