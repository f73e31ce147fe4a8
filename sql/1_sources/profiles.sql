-- A row is one expert of one MoE layer for one text.
--
-- formula: q_i = mean over the tokens of text i of the router's full probability vector, before top-k
-- range: 0 to 1, sums to 1 over the experts of a layer
-- source: 2510.04694, eq. 1-2
-- needs: profiles
-- columns:
--   run: the run's name
--   lang: the language's code
--   shard: the shard that holds the text
--   seq: number of the text in its language
--   layer: the decoder layer's own index
--   expert: logical expert id
--   probability: q_i of the expert, float32
create or replace view profiles as
select
    run,
    lang,
    shard,
    seq,
    layer,
    expert,
    probability
from files.profiles;
