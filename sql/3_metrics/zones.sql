-- A row is one MoE layer of a run and the zone it lies in.
--
-- formula: shallow [0, r1), middle [r1, r2), deep [r2, L) over the MoE layers' ordinals;
--   r1 = round(0.375 L), r2 = round(0.625 L), halves to even
-- range: shallow, middle, deep; a zone of a model with few MoE layers may be empty
-- source: RISE, 2604.03592
-- needs: run records
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   ordinal: its position among the MoE layers
--   zone: shallow, middle or deep
create or replace view zones as
with boundary as (
    select
        run,
        round_even(0.375::double * count(*), 0) as middle_start,
        round_even(0.625::double * count(*), 0) as deep_start
    from moe_layers
    group by run
)

select
    run,
    layer,
    ordinal,
    case
        when ordinal < middle_start then 'shallow'
        when ordinal < deep_start then 'middle'
        else 'deep'
    end as zone
from moe_layers
inner join boundary using (run);
