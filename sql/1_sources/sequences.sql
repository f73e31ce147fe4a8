-- A row is one text of one language.
--
-- formula: as written by the trace
-- range: seq from 0, counted over all shards of a language
-- source: ours
-- needs: sequences
-- columns:
--   run: the run's name
--   lang: the language's code
--   shard: the shard that holds the text
--   seq: number of the text in its language
--   text_id: id of the text, the same across languages
--   tokens: tokens of the text that were traced
--   truncated: whether the text was cut to the model's window
--   generated: how many of the tokens, the last ones, the model generated itself
--   text: what the model generated; null where it was not asked to
create or replace view sequences as
select
    run,
    lang,
    shard,
    seq,
    text_id,
    tokens,
    truncated,
    generated,
    text
from files.sequences;
