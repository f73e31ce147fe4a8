-- A row is one traced token or text, and there is none: what stands in place of `routes`, `tokens` and `sequences`
--   where counts come from roll-ups, so that no file of theirs is opened.
--
-- formula: empty
-- range: no rows
-- source: ours
-- needs: nothing of the store
-- columns:
--   run: as in `tokens`
--   lang: as in `tokens`
--   shard: as in `tokens`
--   token: as in `tokens`
--   seq: as in `tokens`
--   position: as in `tokens`
--   token_id: as in `tokens`
--   generated: as in `tokens`
--   text_id: as in `sequences`
--   layer: as in `routes`
--   expert: as in `routes`
--   weight: as in `routes`
create or replace table unread (
    run varchar,
    lang varchar,
    shard integer,
    token integer,
    seq integer,
    position integer,
    token_id integer,
    generated boolean,
    text_id varchar,
    layer integer,
    expert usmallint,
    weight float
);
