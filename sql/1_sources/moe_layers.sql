-- A row is one MoE layer of a run.
--
-- formula: ordinal = position of the layer among the run's MoE layers, from 0
-- range: ordinal 0 to L - 1
-- source: ours
-- needs: run records
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index, dense layers counted
--   ordinal: its position among the MoE layers, dense layers not counted
create or replace table moe_layers (
    run varchar,
    layer usmallint,
    ordinal integer
);
