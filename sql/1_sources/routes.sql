-- A row is one routing decision: a (layer, token, rank).
--
-- formula: as written by the trace
-- range: rank 0 to k - 1; expert 0 to E - 1; weight from 0
-- source: ours
-- needs: routes
-- columns:
--   run: the run's name
--   lang: the language's code
--   shard: the shard that holds the token
--   layer: the decoder layer's own index
--   token: number of the token in its shard
--   rank: 0 = highest gate weight
--   expert: logical expert id
--   weight: gate weight as the layer applies it, routed scaling factor included
create or replace view routes as
select
    run,
    lang,
    shard,
    layer,
    token,
    rank,
    expert,
    weight
from files.routes;
