-- A row is one language's score: a table for your own numbers, empty until you fill it; no trace has them.
--
-- formula: as inserted
-- range: any number; one row a language
-- source: ours
-- needs: nothing of the store
-- columns:
--   lang: the language's code
--   score: how well the model does in it, a benchmark's accuracy say; NULL is as good as no row
create or replace table scores (
    lang varchar,
    score double
);
