-- A row is one token of a shard.
--
-- formula: as written by the trace
-- range: token from 0 within the shard, in an order that compresses well; position from 0 within the text
-- source: ours
-- needs: tokens
-- columns:
--   run: the run's name
--   lang: the language's code
--   shard: the shard that holds the token
--   token: number of the token in its shard
--   seq: the text it belongs to
--   position: its position in the text
--   token_id: its id in the tokenizer's vocabulary
--   generated: whether the model generated it; false: it stood in the prompt
create or replace view tokens as
select
    run,
    lang,
    shard,
    token,
    seq,
    position,
    token_id,
    generated
from files.tokens;
