-- A row is one pair of languages at one MoE layer: how differently they use the layer's experts.
--
-- formula: JSD = H((p1 + p2) / 2) - (H(p1) + H(p2)) / 2; normalised: JSD / (ln E - (H(p1) + H(p2)) / 2),
--   0 where the denominator is below 1e-8; p the activation share, and the same for P
-- range: jsd 0 to ln 2; normalised 0 to 1
-- units: nats
-- source: 2605.29714; normalisation 2510.04694, eq. 6-8
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   lang_a: the pair's first language, lang_a < lang_b
--   lang_b: the pair's second language
--   jsd: Jensen-Shannon divergence of p
--   jsd_normalized: entropy-normalised divergence of p
--   probability_jsd: Jensen-Shannon divergence of P; NULL in a run without profiles
--   probability_jsd_normalized: entropy-normalised divergence of P
create or replace macro divergence(languages := null, layers := null) as table
with expert as (
    -- Numbers in place of names, halves that are never 0 in place of a test: the join below makes a row per pair,
    -- layer and expert, 122 million of them for 200 languages x 48 layers x 128 experts.
    select
        activation.run,
        activation.lang,
        activation.layer,
        activation.expert,
        dense_rank() over (order by activation.lang)::integer as language_number,
        dense_rank() over (order by activation.run, activation.layer)::integer as layer_number,
        activation.share,
        activation.probability,
        activation.share / 2 + 1e-300 as half_share,
        activation.probability / 2 + 1e-300 as half_probability
    from activation
    where wanted(activation.lang, languages) and wanted(activation.layer, layers)
),

language_layer as (
    select
        run,
        lang,
        layer,
        language_number,
        layer_number,
        -sum(share * ln(greatest(share, 1e-300))) as entropy,
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
    if(probability_jsd < 0, 0, probability_jsd) as probability_jsd,
    case
        when probability_room < 1e-8 or probability_jsd < 0 then 0
        when probability_jsd > probability_room then 1
        else probability_jsd / probability_room
    end as probability_jsd_normalized
from pair;
