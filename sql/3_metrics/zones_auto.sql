-- A row is one MoE layer of a run and the zone it lies in, zones being where the languages' divergence changes.
--
-- formula: the curve is the mean over language pairs of `divergence.jsd_normalized` by ordinal; shallow [0, r1),
--   middle [r1, r2), deep [r2, L) with 1 <= r1 < r2 <= L - 1 that make the sum of squared distances of the layers from
--   the mean of their zone least; of sums less than 1e-12 above the least, the lowest (r1, r2)
-- range: shallow, middle, deep, each of one layer at least; with fewer than three MoE layers the first is shallow and the
--   second middle; a run of one language has no curve and no rows
-- source: ours, after RISE's zones, 2604.03592
-- needs: usage
-- parameters:
--   languages: the languages whose pairs make the curve; null = all of the run
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   ordinal: its position among the MoE layers
--   zone: shallow, middle or deep
create or replace macro zones_auto(languages := null) as table
with curve as (
    select
        mean.run,
        mean.layer,
        moe_layers.ordinal,
        mean.jsd_normalized as divergence
    from divergence_by_layer(languages := languages) as mean
    inner join moe_layers using (run, layer)
),

segment as (
    select
        first_layer.run,
        first_layer.ordinal as segment_start,
        last_layer.ordinal + 1 as segment_end,
        var_pop(curve.divergence) * count(*) as squares
    from curve as first_layer
    inner join curve as last_layer
        on
            first_layer.run = last_layer.run
            and first_layer.ordinal <= last_layer.ordinal
    inner join curve
        on
            first_layer.run = curve.run
            and curve.ordinal between first_layer.ordinal and last_layer.ordinal
    group by all
),

run_layers as (
    select
        run,
        count(*) as number
    from curve
    group by run
),

boundary as (
    select
        shallow.run,
        middle.segment_start as middle_start,
        middle.segment_end as deep_start,
        shallow.squares + middle.squares + deep.squares as squares,
        min(shallow.squares + middle.squares + deep.squares) over (partition by shallow.run) as least_squares
    from segment as shallow
    inner join segment as middle
        on
            shallow.run = middle.run
            and shallow.segment_end = middle.segment_start
    inner join segment as deep
        on
            shallow.run = deep.run
            and middle.segment_end = deep.segment_start
    inner join run_layers
        on
            shallow.run = run_layers.run
            and deep.segment_end = run_layers.number
    where shallow.segment_start = 0
),

chosen_boundary as (
    select
        run,
        min((middle_start, deep_start)) as starts
    from boundary
    where squares < least_squares + 1e-12
    group by run
)

select
    run,
    curve.layer,
    curve.ordinal,
    case
        when curve.ordinal < coalesce(starts[1], 1) then 'shallow'
        when curve.ordinal < coalesce(starts[2], 2) then 'middle'
        else 'deep'
    end as zone
from curve
left join chosen_boundary using (run);
