-- A row is one size n of expert sets at one MoE layer: how much the sets of two languages overlap, beside chance.
--
-- formula: mean over language pairs of `jaccard(n)`, for every n from 1 to E: two languages share at n the experts
--   whose larger rank by a is below n; expected = the mean jaccard of two random sets of n of the E experts
--   (`expected_jaccard`); corrected = (jaccard - expected) / (1 - expected)
-- range: jaccard 0 to 1; corrected below 0 (less than chance) to 1, NULL for n = E, where sets are all experts
-- source: ours, after RISE's routing isolation, 2604.03592
-- needs: usage
-- parameters:
--   languages: the languages that are compared; null = all of the run
--   layers: decoder layers to look at; null = all
--   prompt_only: whether to leave out tokens that the model generated; like the next three it needs routes and tokens
--   skip_positions: how many tokens at the beginning of each text to leave out
--   skip_special: whether to leave out the run's special tokens
--   shared_texts: whether to leave out texts whose id not each of `languages` has; needs sequences too
-- columns:
--   run: the run's name
--   layer: the decoder layer's own index
--   n: size of the sets
--   pairs: language pairs in the mean
--   jaccard: mean intersection over union
--   expected: what chance alone gives sets of this size
--   corrected: (jaccard - expected) / (1 - expected)
create or replace macro jaccard_curve(
    languages := null,
    layers := null,
    prompt_only := false,
    skip_positions := 0,
    skip_special := false,
    shared_texts := false
) as table
with ranked_expert as (
    select
        used.run,
        used.lang,
        used.layer,
        used.expert,
        runs.num_experts,
        row_number() over (
            partition by used.run, used.lang, used.layer
            order by used.count desc, used.expert asc
        ) as n
    from
        usage_of(
            languages := languages,
            layers := layers,
            prompt_only := prompt_only,
            skip_positions := skip_positions,
            skip_special := skip_special,
            shared_texts := shared_texts
        ) as used
    inner join runs using (run)
),

-- Sets as bits, numbers in place of names: the join below makes a row per pair, layer and size.
expert_set as (
    select
        dense_rank() over (order by lang)::integer as language_number,
        dense_rank() over (order by run, layer)::integer as layer_number,
        n::integer as n,
        bit_or(set_bit(repeat('0', num_experts)::bit, expert, 1)) over (
            partition by run, lang, layer
            order by n
            rows between unbounded preceding and current row
        ) as members
    from ranked_expert
),

layer_number as (
    select
        run,
        layer,
        num_experts,
        dense_rank() over (order by run, layer)::integer as layer_number
    from ranked_expert
    group by
        run,
        layer,
        num_experts
),

size_overlap as (
    select
        a.layer_number,
        a.n,
        count(*) as pairs,
        avg(bit_count(a.members & b.members) / (2 * a.n - bit_count(a.members & b.members))) as jaccard
    from expert_set as a
    inner join expert_set as b
        on
            a.layer_number = b.layer_number
            and a.n = b.n
            and a.language_number < b.language_number
    group by
        a.layer_number,
        a.n
),

chance as (
    select
        num_experts,
        n,
        expected_jaccard(n, num_experts) as expected
    from (
        select distinct
            num_experts,
            n
        from ranked_expert
    )
)

select
    run,
    layer,
    n,
    pairs,
    jaccard,
    expected,
    case when n < num_experts then (jaccard - expected) / (1 - expected) end as corrected
from size_overlap
inner join layer_number using (layer_number)
inner join chance using (num_experts, n);
