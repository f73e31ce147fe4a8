-- A row is one shard that is in the store.
--
-- formula: the commit record's own fields; bytes = sum over its files
-- range: one row for every commit record
-- source: ours
-- needs: commit records
-- columns:
--   run: the run's name
--   lang: the language's code
--   shard: the shard's number in its language
--   sequences: texts of the shard
--   tokens: T of the shard
--   bytes: size of its data files
--   created: when it was committed, UTC
create or replace table shards (
    run varchar,
    lang varchar,
    shard integer,
    sequences bigint,
    tokens bigint,
    bytes bigint,
    created timestamp
);
