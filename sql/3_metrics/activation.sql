-- A row is one expert of one MoE layer for one language: how often it is used, and with what weight.
--
-- formula: a = count / T; p = count / sum of the layer's counts; P = mean over the language's tokens of the full router
--   probability
-- range: a and p 0 to 1; over a layer's experts a sums to k (nearly so in an import), p,
--   weight_share and P to 1
-- source: RISE, 2604.03592 (a)
-- needs: usage
-- parameters:
--   languages: languages to look at; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   lang: the language's code
--   layer: the decoder layer's own index
--   expert: logical expert id
--   frequency: a, tokens routed to the expert / tokens
--   share: p, tokens routed to the expert / routing decisions of the layer
--   weight_mean: mean applied gate weight of the tokens routed to it; NULL where there are none
--   weight_share: its part of the sum of the layer's applied gate weights
--   probability: P, its mean router probability before top-k; NULL in a run without profiles
create or replace macro activation(
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
select
    run,
    lang,
    layer,
    expert,
    count / tokens as frequency,
    share,
    weight_sum / nullif(count, 0) as weight_mean,
    weight_sum / nullif(layer_weight_sum, 0) as weight_share,
    probability
from
    shares(
        languages := languages,
        layers := layers,
        prompt_only := prompt_only,
        skip_positions := skip_positions,
        skip_special := skip_special,
        shared_texts := shared_texts
    );
