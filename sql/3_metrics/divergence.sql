-- A row is one pair of languages at one MoE layer: how differently they use the layer's experts.
--
-- formula: JSD = H((p1 + p2) / 2) - (H(p1) + H(p2)) / 2; normalised: JSD / (ln E - (H(p1) + H(p2)) / 2), 0 where the
--   denominator is below 1e-8; p the activation share, and the same for P. Few texts make jsd too large, by 1/2 sum
--   [V(p1) (1 / (2 p1) - 1 / (4 m)) + V(p2) (1 / (2 p2) - 1 / (4 m))] on average, m = (p1 + p2) / 2, V of `shares` (the
--   delta method, texts drawn independently): jsd_corrected is jsd less that, and noise the mean of the two languages'
--   sum V(p) / (4 p), what jsd is on average of two samples of one language. Parallel texts covary: with C the
--   covariance of the two languages' p over text ids the bias is smaller by sum C / (4 m), so that jsd_corrected is too
--   small on parallel texts; `bootstrap` in Python has both. Where an expert has a handful of decisions about a tenth
--   of the bias remains
-- range: jsd 0 to ln 2; normalised 0 to 1; jsd_corrected is 0 on average where there is no difference, so often
--   negative; noise from 0
-- units: nats
-- source: 2605.29714; normalisation 2510.04694, eq. 6-8; correction and noise are ours
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
--   lang_a: the pair's first language, lang_a < lang_b
--   lang_b: the pair's second language
--   jsd: Jensen-Shannon divergence of p
--   jsd_normalized: entropy-normalised divergence of p
--   jsd_corrected: jsd without its bias; NULL where a language has fewer than two texts or unknown sums over texts
--   noise: what jsd is on average where the languages do not differ; NULL as jsd_corrected
--   probability_jsd: Jensen-Shannon divergence of P; NULL in a run without profiles
--   probability_jsd_normalized: entropy-normalised divergence of P
create or replace macro divergence(
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with expert as (
    -- Numbers in place of names, halves that are never 0 in place of a test: the join below makes a row per pair,
    -- layer and expert, 122 million of them for 200 languages x 48 layers x 128 experts.
    select
        used.run,
        used.lang,
        used.layer,
        used.expert,
        dense_rank() over (order by used.lang)::integer as language_number,
        dense_rank() over (order by used.run, used.layer)::integer as layer_number,
        used.share,
        used.variance,
        used.probability,
        used.share / 2 + 1e-300 as half_share,
        used.probability / 2 + 1e-300 as half_probability
    from
        shares(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
),

language_layer as (
    select
        run,
        lang,
        layer,
        language_number,
        layer_number,
        -sum(share * ln(greatest(share, 1e-300))) as entropy,
        sum(case when share > 0 then variance / (4 * share) end) as noise,
        -sum(probability * ln(greatest(probability, 1e-300))) as probability_entropy
    from expert
    group by
        run,
        lang,
        layer,
        language_number,
        layer_number
),

pair_mixture as (
    select
        a.layer_number,
        a.language_number as number_a,
        b.language_number as number_b,
        -sum((a.half_share + b.half_share) * ln(a.half_share + b.half_share)) as entropy,
        sum((a.variance + b.variance) / (a.half_share + b.half_share)) as relative_variance,
        -sum((a.half_probability + b.half_probability) * ln(a.half_probability + b.half_probability))
            as probability_entropy
    from expert as a
    inner join expert as b
        on
            a.layer_number = b.layer_number
            and a.expert = b.expert
            and a.language_number < b.language_number
    group by
        a.layer_number,
        a.language_number,
        b.language_number
),

pair as (
    select
        a.run,
        a.layer,
        a.lang as lang_a,
        b.lang as lang_b,
        pair_mixture.entropy - (a.entropy + b.entropy) / 2 as jsd,
        ln(runs.num_experts) - (a.entropy + b.entropy) / 2 as room,
        (a.noise + b.noise) / 2 as noise,
        a.noise + b.noise - pair_mixture.relative_variance / 8 as bias,
        pair_mixture.probability_entropy - (a.probability_entropy + b.probability_entropy) / 2 as probability_jsd,
        ln(runs.num_experts) - (a.probability_entropy + b.probability_entropy) / 2 as probability_room
    from pair_mixture
    inner join language_layer as a
        on
            pair_mixture.layer_number = a.layer_number
            and pair_mixture.number_a = a.language_number
    inner join language_layer as b
        on
            pair_mixture.layer_number = b.layer_number
            and pair_mixture.number_b = b.language_number
    inner join runs
        on a.run = runs.run
)

-- Comparisons, not greatest() and least(): those would make 0 or 1 of a missing P. What they cut off is rounding.
select
    run,
    layer,
    lang_a,
    lang_b,
    if(jsd < 0, 0, jsd) as jsd,
    case
        when room < 1e-8 or jsd < 0 then 0
        when jsd > room then 1
        else jsd / room
    end as jsd_normalized,
    jsd - bias as jsd_corrected,
    noise,
    if(probability_jsd < 0, 0, probability_jsd) as probability_jsd,
    case
        when probability_room < 1e-8 or probability_jsd < 0 then 0
        when probability_jsd > probability_room then 1
        else probability_jsd / probability_room
    end as probability_jsd_normalized
from pair;
