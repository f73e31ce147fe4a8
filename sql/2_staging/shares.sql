-- A row is one expert of one MoE layer for one language: its share of the layer's decisions, and how sure that is.
--
-- formula: p = count / sum of the layer's counts; V(p) = n / (n - 1) sum over the n texts of (c - p t)^2 / (sum of
--   t)^2, c the text's tokens routed to the expert, t its routing decisions in the layer. Sums over texts of c^2 and c
--   t are enough: (c - p t)^2 = c^2 - 2 p c t + p^2 t^2, and t^2 is the sum of c t over the layer's experts
-- range: p 0 to 1, over a layer's experts 1; V from 0
-- source: ours (the delta method, texts drawn independently)
-- needs: usage
-- parameters:
--   languages: languages to look at; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: as in `usage_of`
--   skip_positions: as in `usage_of`
--   skip_special: as in `usage_of`
--   shared_texts: as in `usage_of`
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   tokens: T
--   count: tokens routed to the expert
--   weight_sum: sum of the applied gate weights
--   layer_weight_sum: the same of all the layer's experts
--   share: p
--   variance: V(p); NULL for fewer than two texts, and where sums over texts are unknown
--   probability: P, the mean router probability before top-k; NULL in a run without profiles
create or replace macro shares(
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with expert as (
    select *
    from
        usage_of(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        )
),

layer_total as (
    select
        run,
        lang,
        layer,
        sum(count)::double as decisions,
        sum(weight_sum) as weight_sum,
        -- The sum of what is known alone would be too low.
        case when count(count_decisions_sum) = count(*) then sum(count_decisions_sum) end as squares,
        case
            when any_value(sequences) > 1
                then any_value(sequences) / ((any_value(sequences) - 1) * sum(count)::double * sum(count)::double)
        end as scale
    from expert
    group by
        run,
        lang,
        layer
),

expert_share as (
    select
        expert.run,
        expert.lang,
        expert.layer,
        expert.expert,
        expert.tokens,
        expert.count,
        expert.weight_sum,
        layer_total.weight_sum as layer_weight_sum,
        expert.count / layer_total.decisions as share,
        expert.count_squared_sum,
        expert.count_decisions_sum,
        layer_total.squares,
        layer_total.scale,
        expert.probability_sum
    from expert
    inner join layer_total using (run, lang, layer)
)

-- A comparison, not greatest(), which would make 0 of a missing sum; what it cuts off is rounding.
select
    run,
    lang,
    layer,
    expert,
    tokens,
    count,
    weight_sum,
    layer_weight_sum,
    share,
    if(
        count_squared_sum < share * (2 * count_decisions_sum - share * squares),
        0,
        (count_squared_sum - share * (2 * count_decisions_sum - share * squares)) * scale
    ) as variance,
    probability_sum / tokens as probability
from expert_share;
