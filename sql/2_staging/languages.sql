-- A row is one language of a run, as far as it is traced.
--
-- formula: sums over the language's shards that are in the store
-- range: shards from 1
-- source: ours
-- needs: commit records
-- columns:
--   run: the run's name
--   lang: the language's code
--   shards: shards that are in the store
--   sequences: texts traced; 0 where an import did not say
--   tokens: T, tokens traced; 1000000000 stands for T where an import has frequencies only
create or replace view languages as
select
    run,
    lang,
    count(*) as shards,
    sum(sequences)::bigint as sequences,
    sum(tokens)::bigint as tokens
from shards
group by
    run,
    lang;
